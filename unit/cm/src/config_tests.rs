//! CM-12, CM-53..CM-61: the configuration file.

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aos_cm.cfg");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

const LEAST: &str = r#"{"caCert": "/r.pem", "workingDir": "/wd", "serviceDiscoveryUrl": "https://c:9000/sd/v7/",
    "iamPublicServerUrl": "localhost:8090", "cmServerUrl": ":8093"}"#;

#[test]
fn defaults() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.cert_storage, "cm");
    assert_eq!(config.storage_dir, Path::new("/wd/storages"));
    assert_eq!(config.state_dir, Path::new("/wd/states"));
    assert_eq!(config.unit_config_file, Path::new("/wd/aos_unit.cfg"));
    assert_eq!(config.install_path, Path::new("/wd/install"));
    assert_eq!(config.download_path, Path::new("/wd/download"));
    assert_eq!(config.dns_pid_file, Path::new("/var/aos/dns/pidfile"));
    assert_eq!(config.unit_status_send_timeout, 10 * SECOND);
    assert_eq!(config.state_change_delay, 10 * SECOND);
    assert_eq!(config.cloud_response_wait_timeout, 10 * SECOND);
    assert_eq!((config.cloud_ping_interval, config.cloud_dead_timeout), (30 * SECOND, 90 * SECOND));
    assert!(!config.open_enveloped_messages);
    assert_eq!(config.monitoring_send_period, MINUTE);
    assert_eq!(config.sm_connection_timeout, MINUTE);
    assert_eq!(config.alerts_send_period, 10 * SECOND);
    assert_eq!(config.update_item_ttl, 30 * DAY);
    assert_eq!(config.remove_outdated_period, DAY);
    assert_eq!(config.nodes_connection_timeout, 10 * MINUTE);
    assert_eq!(config.instance_ttl, 30 * DAY);
    assert_eq!(config.check_override_env_vars_period, MINUTE);
    assert_eq!(config.cloud_message_log, None);
    assert!(read(&LEAST.replace("https://c:9000/sd/v7/", "")).is_ok(), "the certificate names the cloud");
}

// CM-12
// CM-55, CM-58, CM-59, CM-60, CM-61
#[test]
fn every_key_is_read_in_any_letter_case() {
    let config = read(
        r#"{"CACERT": "/r.pem", "certStorage": "cm2", "workingdir": "/wd", "storageDir": "/s", "stateDir": "/t",
        "unitConfigFile": "/u.cfg", "serviceDiscoveryURL": "https://a:1/sd/v7/",
        "overrideServiceDiscoveryUrl": "http://b:2/x", "cloudMessageLog": "/log", "iamPublicServerURL": "p:1",
        "iamProtectedServerUrl": "q:2", "cmServerUrl": ":3", "fileServerUrl": "f:4", "dnsStoragePath": "/d",
        "dnsIp": "10.0.0.1", "dnsPidFile": "/pid", "unitStatusSendTimeout": "1s", "stateChangeDelay": "1m",
        "cloudResponseWaitTimeout": "PT2S", "cloudPingInterval": "12s", "cloudDeadTimeout": "13s",
        "openEnvelopedMessages": true, "monitoring": {"pollPeriod": "3s", "sendPeriod": "4s"},
        "nodeInfoProvider": {"smConnectionTimeout": "5s"}, "alerts": {"sendPeriod": "6s"},
        "imageManager": {"installPath": "/i", "downloadPath": "/o", "updateItemTTL": "7s",
        "removeOutdatedPeriod": "8s"}, "launcher": {"nodesConnectionTimeout": "9s", "instanceTtl": "10s",
        "checkOverrideEnvVarsPeriod": "11"}, "migration": {"migrationPath": "/m"}}"#,
    )
    .unwrap();
    let expected = Config {
        ca_cert: "/r.pem".into(),
        cert_storage: "cm2".into(),
        working_dir: "/wd".into(),
        storage_dir: "/s".into(),
        state_dir: "/t".into(),
        unit_config_file: "/u.cfg".into(),
        service_discovery_url: "https://a:1/sd/v7/".into(),
        override_service_discovery_url: "http://b:2/x".into(),
        cloud_message_log: Some("/log".into()),
        iam_public_server_url: "p:1".into(),
        iam_protected_server_url: "q:2".into(),
        cm_server_url: ":3".into(),
        file_server: fileserver::Address::read("f:4"),
        dns_storage_path: "/d".into(),
        dns_ip: "10.0.0.1".into(),
        dns_pid_file: "/pid".into(),
        state_change_delay: MINUTE,
        unit_status_send_timeout: SECOND,
        cloud_response_wait_timeout: 2 * SECOND,
        cloud_ping_interval: 12 * SECOND,
        cloud_dead_timeout: 13 * SECOND,
        open_enveloped_messages: true,
        monitoring_send_period: 4 * SECOND,
        sm_connection_timeout: 5 * SECOND,
        alerts_send_period: 6 * SECOND,
        install_path: "/i".into(),
        download_path: "/o".into(),
        update_item_ttl: 7 * SECOND,
        remove_outdated_period: 8 * SECOND,
        nodes_connection_timeout: 9 * SECOND,
        instance_ttl: 10 * SECOND,
        check_override_env_vars_period: 11 * SECOND,
    };
    assert_eq!(config, expected);
}

// REL-09
// CM-12
#[test]
fn what_is_wrong_is_said_with_file_and_key() {
    assert!(Config::load(Path::new("/nowhere/aos_cm.cfg")).unwrap_err().is_not_found());
    let wrong = [
        ("{", "valid JSON"),
        ("{}", "workingDir"),
        (&LEAST.replace("https://c:9000/sd/v7/", "c:9000"), "serviceDiscoveryUrl"),
        (&LEAST.replace("\"/r.pem\"", "5"), "caCert"),
        (
            &LEAST.replace("\":8093\"", "\":8093\", \"unitStatusSendTimeout\": \"soon\""),
            "unitStatusSendTimeout",
        ),
        (&LEAST.replace("\":8093\"", "\":8093\", \"alerts\": {\"sendPeriod\": 0}"), "alerts.sendPeriod"),
        (&LEAST.replace("\":8093\"", "\":8093\", \"cloudDeadTimeout\": \"30s\""), "cloudDeadTimeout"),
        (&LEAST.replace("\":8093\"", "\":8093\", \"dnsIp\": \"dns\""), "dnsIp"),
        (&LEAST.replace("\":8093\"", "\":8093\", \"fileServerUrl\": \"main:port\""), "fileServerUrl"),
    ];
    for (text, key) in wrong {
        let error = read(text).unwrap_err();
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            said = format!("{said}: {inner}");
            source = inner.source();
        }
        assert!(said.contains("aos_cm.cfg") && said.contains(key), "{text}: {said}");
    }
}
