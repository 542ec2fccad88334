//! `make demo`: the whole path on one machine, visible step by step.
//!
//! With DEMO_EXIT=1 it ends by itself, with status 0 only if the service answered.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_testbed::interrupt::end_on_interrupt;
use aos_testbed::stage::{STEP_LIMIT, instances, since_desired_sent};
use aos_testbed::wait::pause;
use aos_testbed::{
    Daemon, Error, HttpService, Link, Result, Site, Stage, chain, http, service, wait_for_or_last,
};

const CODENAME: &str = "hello";
const SYSTEM_ID: &str = "demo-unit";
const PAGE: &str = "Hello from a service on an AosEdge Unit.";

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("The demo makes namespaces, cgroups and containers: run it as root.");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints steps with the time since the start.
struct Steps {
    start: Instant,
}

impl Steps {
    fn tell(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }
}

fn run() -> Result<()> {
    let by_itself = std::env::var("DEMO_EXIT").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let steps = Steps { start: Instant::now() };
    let site = Arc::new(Site::new("demo")?);
    let done = end_on_interrupt(&site)?;
    let mut tell = |text: &str| steps.tell(text);
    let mut stage = Stage::provisioned(Arc::clone(&site), SYSTEM_ID, &mut tell)?;
    let result = show(&mut stage, &steps);
    let (address, link) = match result {
        Ok(link) => (link.address(), link),
        Err(error) => {
            eprintln!("\nends of the logs:\n{}", stage.unit.log_tails(15));
            return Err(error);
        }
    };
    if by_itself {
        drop(link);
        drop(stage);
        return site.end();
    }
    print_commands(&stage, &format!("http://{address}/"))?;
    done.set();
    loop {
        if let Err(error) = stage.unit.check_running() {
            eprintln!("{}", chain(&error));
        }
        pause(Duration::from_secs(5));
    }
}

/// From the provisioned Unit to the answering service.
fn show(stage: &mut Stage, steps: &Steps) -> Result<Link> {
    steps.tell("starting IAM, CM and SM");
    stage.unit.start_all()?;
    stage.wait_online(STEP_LIMIT)?;
    steps.tell("the Unit is online: discovery, WebSocket and full status over mutual TLS");

    let service = HttpService::new(&stage.site.dir().join("service"), CODENAME, PAGE)?;
    service.publish(&stage.operator, "1.0.0")?;
    steps.tell("published hello 1.0.0 as an OCI image");
    stage.operator.run(&["assign", SYSTEM_ID, CODENAME])?;
    steps.tell("assigned it to the Unit");
    let status = follow(stage, steps)?;
    let milliseconds = since_desired_sent(&status).unwrap_or(-1);
    steps.tell(&format!("the instance is active, {milliseconds} ms after desiredStatus was sent"));

    let link = stage.unit.link_to_service(service::PORT, Duration::from_secs(5))?;
    let answer = wait_for_or_last("an answer of the service", Duration::from_secs(5), || {
        let answer =
            http::get(link.address(), "/", Duration::from_secs(2)).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("status {}", answer.status)) }
    })?;
    if answer.trim() != PAGE {
        return Err(Error::Unexpected(format!("the service answered '{}'", answer.trim())));
    }
    steps.tell(&format!("the service answers: {}", answer.trim()));
    println!("\n{}", stage.operator.run(&["unit", "status", SYSTEM_ID])?.trim_end());
    print_memory(stage);
    Ok(link)
}

/// Shows every state the instance goes through until it is active.
fn follow(stage: &mut Stage, steps: &Steps) -> Result<serde_json::Value> {
    let shown = std::cell::RefCell::new(String::new());
    stage.wait_status("the instance to be active", STEP_LIMIT, |status| {
        let items = status.get("items").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let item = items.first().map_or_else(
            || "waiting for the Unit".to_owned(),
            |item| format!("item {}", aos_testbed::stage::word(item, "state")),
        );
        let found = instances(status);
        let now = found.first().map_or(item, |one| {
            let error = if one.error.is_empty() { String::new() } else { format!(": {}", one.error) };
            format!("instance {}{error}", one.state)
        });
        if *shown.borrow() != now {
            steps.tell(&format!("  {now}"));
            shown.replace(now.clone());
        }
        if found.iter().any(|one| one.state == "active" && one.item == CODENAME) { Ok(()) } else { Err(now) }
    })
}

fn print_memory(stage: &Stage) {
    let memory = stage.unit.memory();
    let total: u64 = memory.values().map(|one| one.pss).sum();
    let parts: Vec<String> =
        memory.iter().map(|(name, one)| format!("{name} {:.1}", mebibytes(one.pss))).collect();
    println!("\nMemory of the Unit's software (PSS): {:.1} MiB ({})", mebibytes(total), parts.join(", "));
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print_commands(stage: &Stage, url: &str) -> Result<()> {
    let aosctl = stage.operator.command_line()?;
    let aos = aos_testbed::binaries::find("aos")?;
    let service = HttpService::new(&stage.site.dir().join("service-2"), CODENAME, "Hello from version 2.")?;
    let publish: Vec<String> = service.publish_args("2.0.0").iter().map(|word| quoted(word)).collect();
    println!(
        "
Look further (in another terminal):
  the service       curl {url}        (or: busybox wget -qO- {url})
  states            {aosctl} unit status {SYSTEM_ID} --watch
  the Unit's view   {} status --run-dir {}
  an update         {aosctl} {}
  remove it         {aosctl} unassign {SYSTEM_ID} {CODENAME}
  logs              tail -f {} {} {} {}
  inside the Unit   {}

Ctrl-C stops the demo and leaves nothing behind.",
        aos.display(),
        stage.unit.run_dir().display(),
        publish.join(" "),
        stage.cloud.log().display(),
        stage.unit.log(Daemon::Iam).display(),
        stage.unit.log(Daemon::Cm).display(),
        stage.unit.log(Daemon::Sm).display(),
        stage.unit.node().shell_command(),
    );
    Ok(())
}

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}
