//! The shipped units on a real systemd: the way that `docs/first-service.md` tells, from an empty machine to a service.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use aos_testbed::systemd::SystemdBox;
use aos_testbed::{Link, Site, http, wait_for_or_last};

const LIMIT: Duration = Duration::from_mins(1);

fn states(machine: &SystemdBox) -> String {
    let units = "aos-keep aos-iam aos-iam-prov aos-cm aos-sm";
    // Exits with an error when one is not active.
    machine.sh(&format!("systemctl is-active {units} || true")).unwrap().replace('\n', " ").trim().to_owned()
}

fn expect_states(machine: &SystemdBox, states_wanted: &str) {
    wait_for_or_last("the units", LIMIT, || {
        let found = states(machine);
        if found == states_wanted { Ok(()) } else { Err(found) }
    })
    .map_err(|error| format!("{error}\n{}", machine.sh("journalctl -b --no-pager | tail -60").unwrap()))
    .unwrap();
}

fn main_pid(machine: &SystemdBox, unit: &str) -> String {
    machine.sh(&format!("systemctl show -p MainPID --value {unit}")).unwrap().trim().to_owned()
}

/// Address of the only instance, once it is active.
fn instance(machine: &SystemdBox) -> Result<String, String> {
    let text = machine.sh("aos status").map_err(|error| error.to_string())?;
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some("active"));
    let address = line.and_then(|line| line.split_whitespace().find(|word| word.starts_with("172.")));
    address.map(str::to_owned).ok_or(text.clone())
}

// ARC-4, REL-41, SM-02
#[test]
fn the_shipped_units_bring_a_unit_up_and_keep_its_services() {
    let site = Site::new("e2e-systemd").unwrap();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").canonicalize().unwrap();
    let machine = SystemdBox::boot(&site, &packaging).unwrap();
    // The cloud, as a service of the same machine.
    machine
        .sh("cd /opt/aosedge
            install -m 644 packaging/systemd/aos-cloud.service /lib/systemd/system/
            ln -s /opt/aosedge/programs/aos-cloud /opt/aosedge/programs/aosctl /usr/bin/
            mkdir -p /etc/systemd/system/aos-cloud.service.d
            { echo '[Service]'; echo ExecStart=
              grep ^ExecStart= packaging/systemd/aos-cloud.service | sed 's/$/ --public-host localhost/'
            } > /etc/systemd/system/aos-cloud.service.d/host.conf
            systemctl daemon-reload
            systemctl start aos-cloud")
        .unwrap();
    wait_for_or_last("the cloud's certificate", LIMIT, || {
        machine
            .sh("test -s /var/lib/aos-cloud/pki/root.pem && test -s /var/lib/aos-cloud/bootstrap-token")
            .map_err(|_| machine.sh("journalctl -u aos-cloud --no-pager | tail -20").unwrap_or_default())
    })
    .unwrap();

    // Section 4 of the document.
    machine
        .sh("cd /opt/aosedge; mkdir -p /var/lib/softhsm/tokens
            ln -s /opt/aosedge/programs/aos /usr/bin/aos
            for name in aos_iamanager aos_communicationmanager aos_servicemanager; do ln -sf aos /usr/bin/$name; done
            for dir in /etc/aos/ca /var/aos/iam /var/aos/workdirs/cm /var/aos/workdirs/sm /var/aos/storages /var/aos/states; do
              install -d $dir; done
            install -m 644 packaging/config/* /etc/aos/
            install -m 644 /var/lib/aos-cloud/pki/root.pem /etc/aos/ca/root.pem
            for unit in aos-iam aos-iam-prov aos-cm aos-sm aos-keep; do
              install -m 644 packaging/systemd/$unit.service /lib/systemd/system/; done
            install -m 644 packaging/systemd/aos.target /lib/systemd/system/
            systemctl daemon-reload
            systemctl enable --now aos-keep.service aos.target")
        .unwrap();
    expect_states(&machine, "active inactive active inactive inactive");

    // Sections 3 and 5.
    machine
        .sh("cd /root; aosctl login --cloud https://localhost:10000 --ca /etc/aos/ca/root.pem \
              --token-file /var/lib/aos-cloud/bootstrap-token
            aosctl user create --role oem --company Acme --username kim --save-profile oem
            aosctl --profile oem unit provision --unit 127.0.0.1
            systemctl restart aos.target")
        .unwrap();
    expect_states(&machine, "active active inactive active active");
    wait_for_or_last("the cloud to see the unit", LIMIT, || {
        let text = machine.sh("aosctl --profile oem unit list").map_err(|error| error.to_string())?;
        if text.contains("nline") { Ok(()) } else { Err(text) }
    })
    .unwrap();

    // Sections 6 and 7.
    machine
        .sh(r#"cd /root; mkdir -p rootfs/bin rootfs/www; cp /bin/busybox rootfs/bin/; echo hello > rootfs/www/index.html
            echo '{"quotas": {"ramLimit": 67108864, "pidsLimit": 32, "storageLimit": 1048576, "stateLimit": 1000}, "runtimes": [{"codename": "crun"}]}' > item.json
            aosctl --profile oem item publish --rootfs ./rootfs --cmd "/bin/busybox httpd -f -p 8080 -h /www" \
              --expose 8080/tcp --codename web --version 1.0.0 --config item.json
            aosctl --profile oem assign $(cat /etc/machine-id) web"#)
        .unwrap();
    let address = wait_for_or_last("the service", LIMIT, || instance(&machine))
        .map_err(|error| format!("{error}\n{}", machine.sh("journalctl -b --no-pager | tail -60").unwrap()))
        .unwrap();
    let link = Link::inward(machine.node(), format!("{address}:8080").parse().unwrap()).unwrap();
    let page = || match http::get(link.address(), "/", Duration::from_secs(5)) {
        Ok(answer) if answer.text() == "hello\n" => Ok(()),
        Ok(answer) => Err(answer.text()),
        Err(error) => Err(error.to_string()),
    };
    wait_for_or_last("the page", LIMIT, page).unwrap();

    // As the shipped configuration has it: a user namespace of its own, in which nobody is root of the host.
    let service = machine.sh("pgrep -f '[h]ttpd -f -p 8080'").unwrap();
    let pid = service.trim();
    let space = |pid: &str| machine.sh(&format!("readlink /proc/{pid}/ns/user")).unwrap();
    assert_ne!(space(pid), space("1"));
    let map = machine
        .sh(&format!(
            "cat /proc/{pid}/uid_map; grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/{pid}/status"
        ))
        .unwrap();
    let roots = map.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() == 3 && words[1] == "0"
    });
    assert_eq!(roots.count(), 0, "root of the host is in it: {map}");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(map.contains(line), "no '{line}' in {map}");
    }
    assert!(!map.contains("Uid:\t0"), "{map}");
    let storage = "findmnt -rno TARGET | grep -c '^/var/aos/storages/' || true";
    assert_eq!(machine.sh(storage).unwrap().trim(), "1", "its storage has a file system of its own");

    // The daemons come and go, the service stays: restarted in order, killed, and the whole target.
    let keeper = main_pid(&machine, "aos-keep");
    for step in [
        "systemctl restart aos-sm",
        "systemctl restart aos-cm",
        "systemctl restart aos-iam",
        "systemctl kill -s KILL aos-cm",
        "systemctl restart aos.target",
    ] {
        machine.sh(step).unwrap();
        expect_states(&machine, "active active inactive active active");
        assert_eq!(machine.sh("pgrep -f '[h]ttpd -f -p 8080'").unwrap(), service, "after {step}");
        wait_for_or_last("the page", LIMIT, page).unwrap();
    }
    assert_eq!(main_pid(&machine, "aos-keep"), keeper);
    // The keeper, too, in order and killed: it stays a unit, and the manager starts none of its own.
    for step in ["systemctl restart aos-keep", "systemctl kill -s KILL aos-keep"] {
        let before = main_pid(&machine, "aos-keep");
        machine.sh(step).unwrap();
        wait_for_or_last("another keeper", LIMIT, || {
            let now = main_pid(&machine, "aos-keep");
            if now == before || now.trim() == "0" { Err(now) } else { Ok(()) }
        })
        .unwrap();
        expect_states(&machine, "active active inactive active active");
        assert_eq!(machine.sh("pgrep -f '[h]ttpd -f -p 8080'").unwrap(), service, "after {step}");
        assert_eq!(machine.sh("pgrep -c -f '[k]eep --dir'").unwrap().trim(), "1", "after {step}");
    }
    wait_for_or_last("the page", LIMIT, page).unwrap();
    // What the daemons say is in the journal.
    for unit in ["aos-iam", "aos-cm", "aos-sm"] {
        assert!(
            !machine.sh(&format!("journalctl -u {unit} -o cat --no-pager | head -3")).unwrap().is_empty(),
            "{unit}"
        );
    }
    assert_eq!(machine.sh("systemctl list-units --failed --no-legend 'aos*'").unwrap(), "");
}
