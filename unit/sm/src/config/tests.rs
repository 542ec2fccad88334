//! Configuration files as they are in the field, and wrong ones.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let path = Path::new("sm.cfg");
    let (file, unknown) = aos_config_file::parse::<File>(path, text.as_bytes())?;
    assert!(unknown.is_empty(), "unknown keys: {unknown:?}");
    Config::check(path, file)
}

// SM-21, SM-22, SM-23
#[test]
fn upstream_file_is_taken_as_it_is() {
    let config = parse(
        r#"{"workingDir":"/var/aos/workdirs/sm","caCert":"/etc/aos/root.pem","certStorage":"/var/aos/crypt/sm/",
            "iamPublicServerURL":"main:8090","IAMProtectedServerUrl":"localhost:8089","cmServerURL":"main:8093",
            "cmReconnectTimeout":"1m","monitoring":{"pollPeriod":"20s","averageWindow":"2m"},
            "imageManager":{"updateItemTtl":"P10D","imagesPartLimit":20},"logging":{"maxPartSize":131072,"maxPartCount":40},
            "journalAlerts":{"filter":["x"],"serviceAlertPriority":9,"systemAlertPriority":2},"migration":{"migrationPath":"/x"},"storageDir":"/a","stateDir":"/b",
            "runtimes":[{"plugin":"container","type":"crun","isComponent":false,
              "config":{"stateDir":"/var/aos/states","hostBinds":["bin"],"cgroupParent":"/aos/"}}]}"#,
    )
    .unwrap();
    assert_eq!(config.cert_storage, "sm");
    assert_eq!(config.iam_protected_url, "localhost:8089");
    assert_eq!(config.cm_reconnect_timeout, Duration::from_mins(1));
    assert!(!config.insecure, "only who asks for it goes without a certificate");
    assert_eq!(config.average_samples, 6);
    assert_eq!(config.image_path, Path::new("/var/aos/workdirs/sm/images"));
    assert_eq!(config.log_limits, Limits::new(131_072, 40));
    assert_eq!(config.disk_quotas, Policy::Auto);
    let alerts = JournalAlerts { filter: vec!["x".into()], service_priority: 4, system_priority: 2 };
    assert_eq!(config.journal_alerts, alerts);
    assert_eq!(config.component_log_dir, Path::new("/var/log/aos"));
    let runtime = config.containers.first().unwrap();
    assert_eq!(runtime.state_dir, Path::new("/var/aos/states"));
    assert_eq!(runtime.storage_dir, Path::new("/var/aos/workdirs/sm/storages"));
    assert_eq!(runtime.cgroup_parent, "/aos");
    assert_eq!(runtime.executable, Path::new("/usr/bin/crun"));
}

// SM-21, SM-23: the defaults as they are documented.
#[test]
fn what_is_not_said_has_its_default() {
    let config = parse(
        r#"{"workingDir":"/w","iamPublicServerURL":"a:1","cmServerURL":"b:2","caCert":"",
            "runtimes":[{"plugin":"container","type":"crun"}]}"#,
    )
    .unwrap();
    assert_eq!(config.ca_cert, None);
    assert_eq!(config.cm_reconnect_timeout, Duration::from_secs(10));
    assert_eq!(config.node_config_file, Path::new("/w/aos_node.cfg"));
    assert_eq!(config.resources_config_file, Path::new("/etc/aos/resources.cfg"));
    assert_eq!((config.poll_period, config.average_samples), (Duration::from_secs(35), 1));
    assert_eq!((config.image_path.as_path(), config.images_part_limit), (Path::new("/w/images"), 0));
    assert_eq!(config.update_item_ttl, Duration::from_hours(30 * 24));
    assert_eq!(config.remove_outdated_period, Duration::from_hours(24));
    assert_eq!(config.log_limits, Limits::new(262_144, 80));
    let alerts = JournalAlerts { filter: vec![], service_priority: 4, system_priority: 3 };
    assert_eq!(config.journal_alerts, alerts);
    let runtime = config.containers.first().unwrap();
    assert_eq!(runtime.runtime_dir, Path::new("/run/aos/runtime"));
    assert_eq!(
        (runtime.storage_dir.as_path(), runtime.state_dir.as_path()),
        (Path::new("/w/storages"), Path::new("/w/states"))
    );
    assert_eq!(runtime.state_root, Path::new("/run/crun"));
    assert_eq!(runtime.executable, Path::new("/usr/bin/crun"));
    let five = [r#"{"plugin":"container","type":"t"}"#; 5].join(",");
    let many = parse(&format!("{{{BASE}:[{five}]}}")).unwrap_err().to_string();
    assert!(many.contains("at most 4"), "{many}");
}

#[test]
fn what_is_wrong_is_named() {
    let base = r#""workingDir":"/w","iamPublicServerURL":"a:1","cmServerURL":"b:2""#;
    let error = |rest: &str| parse(&format!("{{{base}{rest}}}")).unwrap_err().to_string();
    assert!(error("").contains("runtimes"));
    assert!(error(r#","runtimes":[{"plugin":"vm","type":"b"}]"#).contains("runtimes[0].plugin"));
    assert!(error(r#","cmReconnectTimeout":"soon""#).contains("cmReconnectTimeout"));
    assert!(
        error(r#","runtimes":[{"plugin":"container","type":"c","config":{"logMaxBytes":"x"}}]"#)
            .contains("runtimes[0].config.logMaxBytes")
    );
    assert!(parse("{}").unwrap_err().to_string().contains("workingDir"));
}

const BASE: &str = r#""workingDir":"/w","iamPublicServerURL":"a:1","cmServerURL":"b:2","runtimes""#;

// SM-23, DIS-17
#[test]
fn several_runtimes_keep_out_of_each_others_way() {
    let config = parse(&format!(
        r#"{{{BASE}:[{{"plugin":"container","type":"crun"}},
            {{"plugin":"container","type":"runc","config":{{"crunExecutable":"/usr/bin/runc"}}}},
            {{"plugin":"native","type":"plain","config":{{"ownNetwork":true,"stopGrace":"PT3S"}}}},
            {{"plugin":"rootfs","type":"x-rootfs","isComponent":true,"config":{{"versionFilePath":"/etc/v"}}}}]}}"#,
    ))
    .unwrap();
    let [first, second] = config.containers.as_slice() else { panic!("{config:?}") };
    assert_eq!(first.runtime_dir, Path::new("/run/aos/runtime"));
    assert_eq!(second.runtime_dir, Path::new("/run/aos/runtime-runc"));
    assert_eq!(
        (first.state_root.as_path(), second.state_root.as_path()),
        (Path::new("/run/crun"), Path::new("/run/crun-runc"))
    );
    let native = config.natives.first().unwrap();
    assert!(native.own_network);
    assert_eq!(native.stop_grace, Duration::from_secs(3));
    assert_eq!(config.run_dir(), Path::new("/run/aos/runtime"));
    let shared = format!(
        r#"{{{BASE}:[{{"plugin":"container","type":"a"}},
            {{"plugin":"container","type":"b","config":{{"runtimeDir":"/run/aos/runtime"}}}}]}}"#
    );
    assert!(parse(&shared).unwrap_err().to_string().contains("runtimes[1].config.runtimeDir"));
    let alone = parse(&format!(r#"{{{BASE}:[{{"plugin":"native","type":"n"}}]}}"#)).unwrap();
    assert_eq!(alone.run_dir(), Path::new("/run/aos-native"));
    let none = format!(r#"{{{BASE}:[{{"plugin":"boot","type":"n"}}]}}"#);
    assert!(parse(&none).unwrap_err().to_string().contains("runtimes"));
}

// ARC-14: what is shipped leads to the Communication Manager at its usual port.
#[test]
fn the_shipped_configuration_has_the_usual_ports() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/config/sm.cfg");
    let config = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(config.cm_server_url, "localhost:8093");
    assert_eq!(config.iam_public_url, "localhost:8090");
    assert_eq!(config.iam_protected_url, "localhost:8089");
}
