use super::*;
use crate::iam::Topic;

fn read(line: &str) -> Result<Command> {
    parse(line.split_whitespace().map(OsString::from))
}

fn flags(config: &str, level: Level, output: Output, provisioning: bool) -> DaemonFlags {
    DaemonFlags { config: config.into(), level, output, provisioning }
}

// CM-02, CM-53
#[cfg(all(feature = "cm", feature = "iam"))]
#[test]
fn command_word_and_process_name_mean_the_same() {
    let expected = Command::Daemon(Daemon::Cm, flags("x.cfg", Level::Debug, Output::Journal, false));
    assert_eq!(read("aos cm -c x.cfg -v debug -j").unwrap(), expected);
    assert_eq!(read("/usr/bin/aos_communicationmanager --config=x.cfg --verb debug --j").unwrap(), expected);
    let bare = Command::Daemon(Daemon::Cm, flags("aos_cm.cfg", Level::Info, Output::Stdout, false));
    assert_eq!(read("aos_communicationmanager").unwrap(), bare);
}

#[cfg(feature = "iam")]
#[test]
fn upstream_single_dash_provisioning_is_accepted() {
    let expected = Command::Daemon(Daemon::Iam, flags("i.cfg", Level::Info, Output::Stdout, true));
    for line in ["aos iam -provisioning -c i.cfg", "aos_iamanager -p -c i.cfg", "aos iam --prov -c i.cfg"] {
        assert_eq!(read(line).unwrap(), expected, "{line}");
    }
}

#[test]
fn a_word_after_iam_asks_the_one_that_runs() {
    let query = |topic, json, run_dir: Option<&str>, config: Option<&str>| {
        Command::Iam(Query { topic, json, run_dir: run_dir.map(Into::into), config: config.map(Into::into) })
    };
    assert_eq!(read("aos iam certificates").unwrap(), query(Topic::Certificates, false, None, None));
    assert_eq!(read("aos iam nodes --json").unwrap(), query(Topic::Nodes, true, None, None));
    let line = "aos iam token --run-dir /r -c i.cfg";
    assert_eq!(read(line).unwrap(), query(Topic::Token, false, Some("/r"), Some("i.cfg")));
    let unknown = read("aos iam fly").unwrap_err().to_string();
    assert!(unknown.contains("certificates, nodes and token"), "{unknown}");
    for line in ["aos iam --help", "aos iam token --help"] {
        let Command::Print(text) = read(line).unwrap() else { panic!("{line} prints") };
        assert!(text.contains("aos iam token"), "{text}");
    }
}

#[cfg(feature = "cm")]
#[cfg(feature = "sm")]
#[test]
fn logs_may_be_named_before_and_after_their_flags() {
    let query = |which: Option<&str>| crate::logs::Query {
        which: which.map(str::to_owned),
        follow: true,
        since: Some("30m".to_owned()),
        ..Default::default()
    };
    assert_eq!(read("aos logs -f --since 30m").unwrap(), Command::Logs(query(None)));
    for line in
        ["aos logs web -f --since 30m", "aos logs -f web --since=30m", "aos logs --follow --since 30m web"]
    {
        assert_eq!(read(line).unwrap(), Command::Logs(query(Some("web"))), "{line}");
    }
    assert!(read("aos logs web other").is_err());
}

#[test]
fn mistakes_are_named() {
    assert!(read("aos cm --provisioning").unwrap_err().to_string().contains("not a flag of `aos cm`"));
    assert!(read("aos cm -v loud").unwrap_err().to_string().contains("'loud' is no log level"));
    assert!(read("aos fly").unwrap_err().to_string().contains("'fly' is no command"));
    assert!(read("aos cm --ve").is_err(), "--ve could be --verbose or --version");
}

#[test]
fn help_lists_what_is_built_in() {
    let Command::Print(text) = read("aos --help").unwrap() else { panic!("help prints") };
    for info in &DAEMONS {
        assert_eq!(text.contains(info.process), info.daemon.is_built_in(), "{}", info.word);
    }
}

#[cfg(feature = "sm")]
#[test]
fn the_words_of_a_services_command_are_left_alone() {
    let words = ["exec", "/b/order.json", "7", "sh", "-c", "--help"].map(str::to_owned).to_vec();
    assert_eq!(read("aos native exec /b/order.json 7 sh -c --help").unwrap(), Command::Native(words));
}
