//! The logs flow: what a service wrote reaches the operator, by both ways; what cannot be had is said.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use aos_testbed::Daemon;
use common::{ITEM, Scene, UNIT, Way};
use serde_json::{Value, json};

fn newest(scene: &Scene) -> Value {
    let list = scene.json(&["logs", UNIT, "--list"]);
    let items = list["items"].as_array().unwrap();
    items.iter().max_by_key(|one| one["created_at"].as_str().unwrap().to_owned()).unwrap().clone()
}

// REL-15
#[test]
fn logs_come_by_messages_and_by_upload_and_what_is_missing_is_said() {
    let mut scene = Scene::online("e2e-logs");
    scene.deploy_handles();
    scene.ask("/cgi-bin/say?first-line");

    // By messages.
    let text = scene.run(&["logs", UNIT, ITEM]);
    assert!(text.contains("service starts with LEVEL=none") && text.contains("first-line"), "{text}");
    let request = scene.wait_frame(0, Way::In, "requestLog", |_| true);
    scene.wait_acked(&request);
    assert_eq!(request.data()["logType"], "instanceLog");
    assert_eq!(
        request.data()["filter"]["nodeIds"][0]["codename"],
        "main",
        "nodes are listed: {}",
        request.json
    );
    let part =
        scene.wait_frame(0, Way::Out, "pushLog", |frame| frame.correlation_id() == request.correlation_id());
    scene.wait_acked(&part);
    assert_eq!((&part.data()["status"], &part.data()["part"]), (&json!("ok"), &json!(1)));
    assert!(part.data()["content"].as_str().unwrap().starts_with("H4sI"), "a gzip stream");
    let record = newest(&scene);
    assert_eq!(record["id"], request.correlation_id());
    assert_eq!(
        (&record["state"], &record["nodes"][0]["state"]),
        (&json!("done"), &json!("done")),
        "{record}"
    );

    // By an upload of its own.
    let before = scene.frames().len();
    let text = scene.run(&["logs", UNIT, ITEM, "--upload", "https"]);
    assert!(text.contains("first-line"), "{text}");
    let request = scene.wait_frame(before, Way::In, "requestLog", |_| true);
    assert_eq!(request.data()["uploadOptions"]["type"], "https");
    let token = request.data()["uploadOptions"]["bearerToken"].as_str().unwrap();
    let end = scene.wait_frame(before, Way::Out, "pushLog", |_| true);
    assert!(
        end.data()["content"].as_str().unwrap_or_default().is_empty(),
        "the text went by upload: {}",
        end.json
    );
    let shown = newest(&scene);
    assert!(!shown.to_string().contains(token), "the token is nowhere shown");

    // What cannot be had is said, with a reason and soon.
    let start = Instant::now();
    for (args, reason) in [
        (&["logs", UNIT, "--system", "--node", "main"][..], "keeps no journal"),
        (&["logs", UNIT, ITEM, "--crash"], "crash"),
        (&["logs", UNIT, ITEM, "--instance", "7"], "absent"),
    ] {
        let error = scene.refused(args);
        assert!(error.contains("there is no log") && error.contains(reason), "{args:?}: {error}");
    }
    let error = scene.refused(&["logs", UNIT, ITEM, "--node", "nowhere"]);
    assert!(error.contains("no node 'nowhere'"), "{error}");
    assert!(start.elapsed().as_secs() < 15, "honest answers come at once, not by timeout");

    // A request to a Unit that is away waits for it, and the waiting can be taken up.
    scene.stage.unit.set_cloud_link(false);
    let error = scene.refused(&["logs", UNIT, ITEM, "--timeout", "1"]);
    assert!(error.contains("goes on in the cloud") && error.contains("--request"), "{error}");
    let id = newest(&scene)["id"].as_str().unwrap().to_owned();
    scene.ask("/cgi-bin/say?while-away");
    scene.stage.unit.set_cloud_link(true);
    let text = scene.run(&["logs", UNIT, "--request", &id]);
    assert!(text.contains("while-away"), "{text}");
    let asked = scene.sent(Way::In, "requestLog").into_iter().filter(|frame| frame.correlation_id() == id);
    assert_eq!(asked.count(), 1, "asked once");

    let error = scene.refused(&["logs", UNIT, "--request", "no-such-request"]);
    assert!(error.contains("404"), "{error}");
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// The time of a line and the line.
fn lines(text: &str) -> Vec<(String, String)> {
    let split = |line: &str| {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 15 && time.ends_with('Z'), "no time: {line}");
        // As RFC 3339 has it.
        let field = |from: usize, till: usize| time.get(from..till).unwrap();
        let day = format!("{}-{}-{}", field(0, 4), field(4, 6), field(6, 8));
        (format!("{day}T{}:{}:{}Z", field(8, 10), field(10, 12), field(12, 14)), rest.to_owned())
    };
    text.lines().filter(|line| !line.starts_with("==>")).map(split).collect()
}

// D43, PRO-85, SM-40, SM-41: `from` is inclusive, `till` exclusive; a crash is told with the lines before it.
#[test]
fn a_span_of_time_gives_its_lines_and_a_crash_is_told() {
    let mut scene = Scene::online("e2e-log-times");
    scene.deploy_handles();
    let said = |scene: &Scene| lines(&scene.run(&["logs", UNIT, ITEM]));
    for word in ["one", "two", "three"] {
        scene.ask(&format!("/cgi-bin/say?word-{word}"));
        let spoken = now();
        scene.until("two more seconds", || if now() > spoken + 1 { Ok(()) } else { Err(String::new()) });
    }
    let all = said(&scene);
    let time = |word: &str| all.iter().find(|(_, line)| line == word).unwrap().0.clone();
    let (two, three) = (time("word-two"), time("word-three"));
    assert!(time("word-one") < two && two < three, "{all:?}");
    let range = lines(&scene.run(&["logs", UNIT, ITEM, "--from", &two, "--till", &three]));
    assert!(range.iter().any(|(_, line)| line == "word-two"), "{range:?}");
    assert!(range.iter().all(|(at, _)| *at >= two && *at < three), "{range:?}");
    let rest = lines(&scene.run(&["logs", UNIT, ITEM, "--from", &three]));
    assert!(rest.iter().any(|(_, line)| line == "word-three"), "{rest:?}");
    assert!(!rest.iter().any(|(_, line)| line == "word-two" || line == "word-one"), "{rest:?}");

    scene.refused(&["logs", UNIT, ITEM, "--crash"]);
    scene.ask("/cgi-bin/crash");
    let crash = scene.until("the crash to be told", || {
        scene.stage.operator.run(&["logs", UNIT, ITEM, "--crash"]).map_err(|error| error.to_string())
    });
    let words: Vec<String> = lines(&crash).into_iter().map(|(_, line)| line).collect();
    assert!(words.contains(&"word-three".to_owned()), "{words:?}");
    let end = ["something is wrong", "process exited with code 4"];
    assert!(words.ends_with(&end.map(String::from)), "{words:?}");
    // What runs again is no part of it.
    assert_eq!(words.iter().filter(|line| line.starts_with("service starts")).count(), 1, "{words:?}");
    scene.until("the service to run again", || {
        let starts = said(&scene).iter().filter(|(_, line)| line.starts_with("service starts")).count();
        if starts == 2 { Ok(()) } else { Err(format!("{starts} starts")) }
    });
}

/// A command that shows what is written until it is interrupted, its output in a file.
struct Following {
    child: Child,
    file: PathBuf,
}

impl Following {
    fn start(mut command: Command, file: PathBuf) -> Self {
        let child = command.stdout(File::create(&file).unwrap()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, file }
    }

    fn count(&self, word: &str) -> usize {
        let text = std::fs::read_to_string(&self.file).unwrap();
        text.lines().filter(|line| line.split_once(' ').is_some_and(|(_, line)| line == word)).count()
    }

    /// Ctrl-C; true when it ends well.
    fn interrupt(mut self, scene: &Scene) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        scene
            .until("the end after Ctrl-C", || self.child.try_wait().unwrap().ok_or_else(String::new))
            .success()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// CLO-23, SM-09, PRO-121: what a real service writes is seen as it is written, through the cloud and on the node,
// each line once; the cloud is not filled with requests.
// REL-38
#[test]
fn logs_are_followed_through_the_cloud_and_on_the_node() {
    let mut scene = Scene::online("e2e-log-follow");
    scene.deploy_handles();
    scene.ask("/cgi-bin/say?before");
    let instance = scene.stage.unit.instances().remove(0);
    let (id, item) = (instance["id"].as_str().unwrap(), instance["item"].as_str().unwrap());
    let dir = scene.stage.site.dir().to_path_buf();
    let aos = |words: &[&str]| {
        let mut command = scene.stage.unit.command(aos_testbed::binaries::find("aos").unwrap()).unwrap();
        command.arg("logs").args(words);
        command
    };

    // On the node, by the start of the instance's id and by the item.
    for name in [&id[..8], item] {
        let output = aos(&[name, "--since", "1h"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Z before\n"), "{text}");
    }
    let nothing = aos(&["nobody"]).output().unwrap();
    let error = String::from_utf8(nothing.stderr).unwrap();
    assert!(!nothing.status.success() && error.contains(id), "it names those that are there: {error}");

    let mut aosctl = Command::new("sh");
    let line = scene.stage.operator.command_line().unwrap();
    aosctl.args(["-c", &format!("exec env {line} logs {UNIT} {ITEM} -f --since 1h")]);
    let both = [
        Following::start(aosctl, dir.join("followed-cloud")),
        Following::start(aos(&[&id[..8], "-f"]), dir.join("followed-node")),
    ];
    for word in ["before", "first", "second", "third", "third"] {
        if word != "before" {
            scene.ask(&format!("/cgi-bin/say?{word}"));
        }
        scene.until(word, || {
            let counts = both.each_ref().map(|one| one.count(word));
            if counts.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{counts:?}")) }
        });
    }
    // What is written again is shown again; nothing else is shown twice.
    scene.until("the last one", || {
        let counts = both.each_ref().map(|one| one.count("third"));
        if counts.iter().all(|count| *count >= 2) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    for one in &both {
        for word in ["before", "first", "second"] {
            assert_eq!(one.count(word), 1, "{word} in {}", one.file.display());
        }
    }
    let [cloud, node] = both;
    assert!(cloud.interrupt(&scene), "Ctrl-C is how following ends");
    drop(node);
    let left = scene.json(&["logs", UNIT, "--list"]);
    assert!(left["items"].as_array().unwrap().len() <= 1, "requests that were read are dropped: {left}");

    let error = scene.refused(&["logs", UNIT, ITEM, "-f", "--instance", "7"]);
    assert!(error.contains("there is no log") && error.contains("absent"), "{error}");
}

// SM-39, SM-65, PRO-73, PRO-85: a node without a journal tells what its components log, through the cloud and
// on the node, and alerts about their errors.
#[test]
fn components_are_read_and_heard_without_a_journal() {
    let mut scene = Scene::online("e2e-log-system");
    let logs = scene.stage.unit.log(Daemon::Sm).parent().unwrap().to_path_buf();
    scene.stage.unit.stop(Daemon::Sm).unwrap();
    let dir = logs.clone();
    scene
        .stage
        .unit
        .configure(Daemon::Sm, |document| {
            document["logging"] = json!({"componentLogDir": dir});
        })
        .unwrap();
    scene.stage.unit.start_all().unwrap();
    scene.stage.wait_online(common::LIMIT).unwrap();
    let text = scene.until("the system log", || {
        let args = ["logs", UNIT, "--system", "--node", "main"];
        scene.stage.operator.run(&args).map_err(|error| error.to_string())
    });
    for component in ["aos-iam ", "aos-cm ", "aos-sm "] {
        assert!(text.contains(component), "{component} in {text}");
    }
    let times: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert!(times.is_sorted(), "{text}");
    let mut local = scene.stage.unit.command(aos_testbed::binaries::find("aos").unwrap()).unwrap();
    let local = local.arg("logs").output().unwrap();
    let local = String::from_utf8(local.stdout).unwrap();
    assert!(local.contains("aos-iam ") && local.contains("aos-sm "), "{local}");

    let mut log = File::options().append(true).open(logs.join("iam.log")).unwrap();
    writeln!(log, "04.03.26 07:25:03.000 [ERR] (certhandler) the token is gone").unwrap();
    let wanted = |entry: &Value| {
        let alert = &entry["alert"];
        alert["tag"] == "coreAlert"
            && alert["coreComponent"] == "IAM"
            && alert["message"] == "(certhandler) the token is gone"
    };
    scene.wait_document("the alert", &format!("units/{UNIT}/alerts/"), |page| {
        page["items"].as_array().is_some_and(|items| items.iter().any(wanted))
    });
}
