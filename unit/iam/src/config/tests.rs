// IAM-08, ARC-20
use aos_status::AosCode;
use serde_json::{Value, json};

use super::*;

fn file(change: impl FnOnce(&mut Value)) -> Result<Checked, ConfigError> {
    let mut config = json!({
        "caCert": "/etc/aos/ca/root.pem",
        "CERTSTORAGE": "iam",
        "iamPublicServerUrl": ":8090",
        "iamprotectedserverurl": ":8089",
        "workingDir": "/var/aos/iam",
        "migration": {"migrationPath": "a", "mergedMigrationPath": "b"},
        "nodeReconnectInterval": "PT10S",
        "finishProvisioningCmdArgs": ["/opt/aos/provfinish.sh"],
        "nodeInfo": {
            "nodeIdPath": "/id", "maxDmips": 20000, "architecture": "arm64",
            "attrs": {"mainnode": "", "AosComponents": "cm,iam,sm"},
            "partitions": [{"name": "store", "types": ["storages", "states"], "path": "/var/aos/storages"}]
        },
        "certModules": [
            {
                "id": "iam", "plugin": "pkcs11module", "algorithm": "ecc", "maxItems": 2,
                "extendedKeyUsage": ["serverAuth", "clientAuth"], "alternativeNames": ["gateway"],
                "params": {"library": "/lib.so", "tokenLabel": "aoscore", "userPinPath": "/pin"}
            },
            {
                "id": "diskencryption", "plugin": "pkcs11module", "algorithm": "RSA", "maxItems": 1,
                "selfSigned": true, "params": {"library": "/lib.so", "slotID": 1, "userPinPath": "/pin"}
            },
        ]
    });
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("iam.cfg");
    std::fs::write(&path, config.to_string()).unwrap();
    load(&path)
}

// IAM 26.1
#[test]
fn upstream_files_are_read_with_keys_in_any_case() {
    let config = file(|_| {}).unwrap();
    assert_eq!(config.raw.iam_public_server_url, ":8090");
    assert_eq!(config.raw.iam_protected_server_url, ":8089");
    assert_eq!(config.raw.cert_storage, "iam");
    assert_eq!(config.node.node_id_path, PathBuf::from("/id"));
    assert_eq!(config.node.cpu_info_path, PathBuf::from("/proc/cpuinfo"));
    assert_eq!(config.node.max_dmips, 20_000);
    assert!(config.node.is_main(), "the attribute counts by its name, in any case, even when empty");
    assert_eq!(config.node.partitions[0].types, ["storages", "states"]);
    assert_eq!(config.raw.node_reconnect_interval.unwrap().0.as_secs(), 10);
    assert_eq!(config.raw.finish_provisioning_cmd_args, ["/opt/aos/provfinish.sh"]);
    let [iam, disk] = &config.modules[..] else { panic!("{:?}", config.modules) };
    assert_eq!(iam.extended_key_usage, [KeyUsage::ServerAuth, KeyUsage::ClientAuth]);
    assert_eq!((iam.algorithm, disk.algorithm), (Algorithm::Ecc, Algorithm::Rsa));
    assert_eq!((disk.max_items, disk.self_signed, disk.params.slot_id), (1, true, Some(1)));
}

// IAM 26.1
#[test]
fn a_missing_file_is_not_found() {
    assert_eq!(load(Path::new("/nowhere/iam.cfg")).unwrap_err().code(), AosCode::NotFound);
}

#[test]
fn disabled_modules_are_skipped_but_their_plugin_counts() {
    let config = file(|config| config["certModules"][0]["disabled"] = json!(true)).unwrap();
    assert_eq!(config.modules.len(), 1);
    let wrong = file(|config| {
        config["certModules"][0]["disabled"] = json!(true);
        config["certModules"][0]["plugin"] = json!("swmodule");
    });
    assert_eq!(wrong.unwrap_err().code(), AosCode::InvalidArgument);
}

/// One wrong value: where it is, what it is, what is answered, and which key the message names.
type Wrong = (&'static str, Value, AosCode, &'static str);

// IAM 26.1, IAM 26.3, IAM 26.5
#[test]
fn wrong_values_are_refused_with_their_key() {
    let many_attrs: Value =
        (0..17).map(|n| (format!("a{n}"), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let cases: Vec<Wrong> = vec![
        ("/certModules/0/maxItems", json!(0), AosCode::InvalidArgument, "certModules[0].maxItems"),
        ("/certModules/0/maxItems", json!(1), AosCode::InvalidArgument, "certModules[0].maxItems"),
        ("/certModules/0/maxItems", json!(6), AosCode::NoMemory, "certModules[0].maxItems"),
        ("/certModules/0/maxItems", json!(-1), AosCode::InvalidArgument, "certModules[0].maxItems"),
        ("/certModules/1/maxItems", json!(0), AosCode::InvalidArgument, "certModules[1].maxItems"),
        ("/certModules/0/plugin", json!("tpm"), AosCode::InvalidArgument, "certModules[0].plugin"),
        ("/certModules/0/algorithm", json!("dsa"), AosCode::InvalidArgument, "certModules[0].algorithm"),
        ("/certModules/0/id", json!("x".repeat(17)), AosCode::InvalidArgument, "certModules[0].id"),
        ("/certModules/1/id", json!("iam"), AosCode::InvalidArgument, "certModules[1].id"),
        (
            "/certModules/0/extendedKeyUsage",
            json!(["codeSigning"]),
            AosCode::InvalidArgument,
            "certModules[0].extendedKeyUsage",
        ),
        (
            "/certModules/0/alternativeNames",
            json!(["1", "2", "3", "4", "5"]),
            AosCode::NoMemory,
            "certModules[0].alternativeNames",
        ),
        (
            "/certModules/0/alternativeNames",
            json!(["x".repeat(43)]),
            AosCode::InvalidArgument,
            "certModules[0].alternativeNames",
        ),
        ("/certModules/0/params/slotID", json!(3), AosCode::InvalidArgument, "certModules[0].params"),
        (
            "/certModules/0/params/library",
            json!(""),
            AosCode::InvalidArgument,
            "certModules[0].params.library",
        ),
        ("/iamPublicServerUrl", json!(""), AosCode::InvalidArgument, "iamPublicServerURL"),
        ("/nodeInfo", json!(null), AosCode::InvalidArgument, "nodeInfo"),
        ("/nodeInfo/attrs", many_attrs, AosCode::NoMemory, "nodeInfo.attrs"),
        ("/nodeInfo/attrs/mainnode", json!(1), AosCode::InvalidArgument, "nodeInfo.attrs.mainnode"),
        ("/nodeReconnectInterval", json!("soon"), AosCode::InvalidArgument, "nodeReconnectInterval"),
        ("/nodeInfo/nodeName", json!("x".repeat(65)), AosCode::InvalidArgument, "nodeInfo.nodeName"),
        ("/nodeInfo/architecture", json!("x".repeat(17)), AosCode::InvalidArgument, "nodeInfo.architecture"),
        (
            "/nodeInfo/attrs/mainnode",
            json!("x".repeat(65)),
            AosCode::InvalidArgument,
            "nodeInfo.attrs.mainnode",
        ),
        ("/apiVersion", json!(4), AosCode::InvalidArgument, "apiVersion"),
        ("/callers", json!({"Nobody": []}), AosCode::InvalidArgument, "callers.Nobody"),
        ("/certModules/0/plugin", json!("filemodule"), AosCode::InvalidArgument, "certModules[0].plugin"),
        (
            "/certModules/0/params/keyDir",
            json!("/keys"),
            AosCode::InvalidArgument,
            "certModules[0].params.keyDir",
        ),
        ("/workingDir", json!(""), AosCode::InvalidArgument, "workingDir"),
    ];
    for (place, value, code, key) in cases {
        let error = file(|config| {
            let (parent, name) = place.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[name] = value.clone();
        })
        .unwrap_err();
        let text = error.to_string();
        assert_eq!(error.code(), code, "{place} {text}");
        assert!(text.contains("iam.cfg") && text.contains(key), "{place}: {text}");
    }
}

#[test]
fn at_most_eight_modules() {
    let modules = |count: usize| {
        file(move |config| {
            let one = config["certModules"][0].clone();
            let all = (0..count).map(|n| {
                let mut module = one.clone();
                module["id"] = json!(format!("type{n}"));
                module
            });
            config["certModules"] = all.collect();
        })
    };
    assert_eq!(modules(8).unwrap().modules.len(), 8);
    assert_eq!(modules(9).unwrap_err().code(), AosCode::NoMemory);
}
