use std::time::Duration;

use aos_duration_text::DurationText;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    ca_cert: PathBuf,
    alerts: Alerts,
    module: Option<serde_json::Value>,
}

impl Default for Config {
    fn default() -> Self {
        Self { ca_cert: "/etc/ssl/root.pem".into(), alerts: Alerts::default(), module: None }
    }
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Alerts {
    send_period: DurationText,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { send_period: DurationText(Duration::from_secs(10)) }
    }
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    library: PathBuf,
}

fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cm.cfg");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

#[test]
fn values_defaults_and_unknown_keys() {
    let (_dir, path) = file(br#"{"CaCert":"","Alerts":{"SENDPERIOD":"1m"},"alert":{}}"#);
    let (config, unknown) = load_with_unknown::<Config>(&path).unwrap();
    assert_eq!(config.ca_cert, Path::new("/etc/ssl/root.pem"));
    assert_eq!(config.alerts.send_period, DurationText::from_secs(60));
    assert_eq!(unknown, ["alert"]);
    assert_eq!(load::<Config>(&path).unwrap(), config);
    let (_dir, path) = file(b"{}");
    assert_eq!(load::<Config>(&path).unwrap(), Config::default());
}

// REL-09
#[test]
fn an_error_names_file_key_and_reason() {
    let path = Path::new("/etc/aos/cm.cfg");
    let error = parse::<Config>(path, br#"{"alerts":{"sendPeriod":"10 parsecs"}}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/aos/cm.cfg: alerts.sendPeriod: '10 parsecs' is no duration (expected e.g. 10s, 1h30m, PT10S)"
    );
    let own = ConfigError::key(path, "certStorage", "must not be empty");
    assert_eq!(own.to_string(), "/etc/aos/cm.cfg: certStorage: must not be empty");
}

#[test]
fn a_missing_file_broken_json_and_a_huge_file() {
    let missing = load::<Config>(Path::new("/nonexistent/cm.cfg")).unwrap_err();
    assert!(missing.is_not_found());
    assert_eq!(missing.to_string(), "/nonexistent/cm.cfg: no such configuration file");
    let (_dir, path) = file(b"{ \"caCert\": \n oops }");
    let broken = load::<Config>(&path).unwrap_err();
    assert!(matches!(&broken, ConfigError::Json { .. }));
    assert!(broken.to_string().contains("line 2"), "{broken}");
    let (_dir, path) = file(&vec![b' '; 1024 * 1024 + 1]);
    assert!(matches!(load::<Config>(&path), Err(ConfigError::Unreadable { .. })));
    let (dir, _) = file(b"");
    assert!(matches!(load::<Config>(dir.path()), Err(ConfigError::Unreadable { .. })));
}

#[test]
fn free_form_parts_are_read_with_their_path() {
    let path = Path::new("/etc/aos/iam.cfg");
    let text = br#"{"module":{"LIBRARY":"/lib/p11.so","x":1}}"#;
    let (config, _) = parse::<Config>(path, text).unwrap();
    let part = config.module.unwrap();
    let module: Module = read_part(path, "certModules[0].params", part).unwrap();
    assert_eq!(module.library, Path::new("/lib/p11.so"));
    let error = read_part::<Module>(path, "certModules[0].params", serde_json::json!({})).unwrap_err();
    assert_eq!(error.to_string(), "/etc/aos/iam.cfg: certModules[0].params: key 'library' is missing");
    let error = read_part::<Module>(path, "params", serde_json::json!({"library": []})).unwrap_err();
    assert!(error.to_string().starts_with("/etc/aos/iam.cfg: params.library: "), "{error}");
}
