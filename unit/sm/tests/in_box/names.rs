//! Names, as a service sees them: busybox asks from inside containers while managers come and go.

use std::fs;

use aos_keep::{Client, process};
use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

/// Asks for a name for ever, one line for each answer. A question is given a second.
fn asking(name: &str) -> String {
    format!(
        "b=/bin/busybox; $b cat /etc/resolv.conf; while :; do \
         if $b timeout 2 $b nslookup -type=a {name} >/tmp/said 2>&1; then $b tail -n 2 /tmp/said | $b tr -d '\\n'; echo; \
         else echo lost; fi; $b sleep 0.02; done"
    )
}

struct Asker<'a> {
    sm: &'a Sm,
    id: String,
}

impl<'a> Asker<'a> {
    async fn of(sm: &'a Sm, instance: u64) -> Self {
        Self { sm, id: sm.instance(instance).await["id"].as_str().unwrap().to_owned() }
    }

    fn count(&self, word: &str) -> usize {
        self.sm.log(&self.id).lines().filter(|line| line.contains(word)).count()
    }

    /// Waits for more lines with this word.
    async fn more(&self, word: &str, count: usize) {
        let enough = self.count(word) + count;
        wait_for(&format!("{count} times {word}"), || (self.count(word) >= enough).then_some(())).await;
    }
}

/// The keeper's process.
fn keeper() -> i32 {
    let program = std::env::current_exe().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"keep"[..])
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
    })
    .expect("a keeper")
}

// SM-06, CM-49, REL-31
pub async fn names_resolve_whoever_is_killed() {
    let mut sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["hostname"] = json!("webby");
    let web = sm.blobs.simple("exec /bin/busybox sleep 1000", item);
    let by_name = sm.blobs.simple(&asking("webby"), with_tmp());
    let by_identity = sm.blobs.simple(&asking("0.subject.item.owner"), with_tmp());
    let stranger = sm.blobs.simple(&asking("webby"), with_tmp());
    let mut abroad = wish(3, "1.0.0", &stranger, &sm.runtime);
    abroad.owner_id = "another".into();
    let wishes = vec![
        wish(0, "1.0.0", &web, &sm.runtime),
        wish(1, "1.0.0", &by_name, &sm.runtime),
        wish(2, "1.0.0", &by_identity, &sm.runtime),
        abroad,
    ];
    sm.cm.update(wishes, vec![]).await;
    for instance in 0..4 {
        sm.cm.wait_state(instance, "active").await;
    }
    let ip = sm.instance(0).await["ip"].as_str().unwrap().to_owned();
    let ids: Vec<String> = {
        let mut ids = Vec::new();
        for instance in 1..4 {
            ids.push(Asker::of(&sm, instance).await.id);
        }
        ids
    };
    let count = |sm: &Sm, of: usize, word: &str| Asker { sm, id: ids[of].clone() }.count(word);
    for id in &ids[..2] {
        Asker { sm: &sm, id: id.clone() }.more(&ip, 5).await;
    }
    // Names of one network are unknown in another one.
    Asker { sm: &sm, id: ids[2].clone() }.more("lost", 3).await;
    assert_eq!(count(&sm, 2, &ip), 0, "another network's name: {}", sm.log(&ids[2]));

    // Nobody notices the death of the Service Manager.
    let lost = [count(&sm, 0, "lost"), count(&sm, 1, "lost")];
    for _ in 0..3 {
        sm.kill();
        for id in &ids[..2] {
            Asker { sm: &sm, id: id.clone() }.more(&ip, 20).await;
        }
        sm.launch();
        for instance in 0..3 {
            sm.cm.wait_state(instance, "active").await;
        }
    }
    Asker { sm: &sm, id: ids[0].clone() }.more(&ip, 20).await;
    let now = [count(&sm, 0, "lost"), count(&sm, 1, "lost")];
    assert_eq!(now, lost, "names were lost:\n{}", sm.log(&ids[0]));

    // The keeper's successor knows the names again, without anybody telling it.
    let old = keeper();
    let start = process::start_time(old).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the keeper's end", || (!process::is_running(old, start)).then_some(())).await;
    wait_for("another keeper", || Client::connect("/run/aos/runtime".as_ref()).ok()).await;
    for id in &ids[..2] {
        Asker { sm: &sm, id: id.clone() }.more(&ip, 20).await;
    }
    assert_eq!(number(&sm.instance(1).await["starts"]), 1);
}

/// What is wished for a second time in a network is an error of the second one, until the first is gone.
pub async fn a_name_belongs_to_one_instance() {
    let sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["hostname"] = json!("webby");
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", item);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let both = vec![wish(0, "1.0.0", &image, &sm.runtime), wish(1, "1.0.0", &image, &sm.runtime)];
    sm.cm.update(both, vec![]).await;
    let status = sm.cm.wait_state(1, "failed").await;
    let error = status.error.unwrap_or_default();
    // "Already exists".
    assert_eq!(error.aos_code, 8, "{error:?}");
    assert!(error.message.contains("webby"), "{error:?}");
    assert_eq!(sm.instance(0).await["state"], "active");
    let mut elsewhere: wire::InstanceInfo = wish(2, "1.0.0", &image, &sm.runtime);
    elsewhere.owner_id = "another".into();
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime), elsewhere], vec![1]).await;
    sm.cm.wait_state(2, "active").await;
    // In one request: the name is waited for.
    sm.cm.update(vec![wish(1, "1.0.0", &image, &sm.runtime)], vec![0]).await;
    sm.cm.wait_state(1, "active").await;
}
