//! Configuration files of a Unit with one node, in upstream's format.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Ports inside the Unit's own network.
pub const IAM_PROTECTED: u16 = 8089;
/// Public IAM server.
pub const IAM_PUBLIC: u16 = 8090;
/// Communication Manager.
pub const CM: u16 = 8093;
/// Its server of blobs for other nodes.
pub const FILES: u16 = 8094;

const SOFTHSM: [&str; 2] = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];

/// The places of one Unit.
#[derive(Debug, Clone)]
pub struct Places {
    /// Folder of everything.
    pub dir: PathBuf,
}

impl Places {
    /// A file or folder of the Unit.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }
}

/// The token library.
pub fn softhsm() -> Result<&'static str> {
    SOFTHSM
        .into_iter()
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| Error::Unexpected("SoftHSM is not installed; run `make setup`".to_owned()))
}

/// SoftHSM's own configuration: a token folder for this Unit alone.
pub fn softhsm_conf(places: &Places) -> String {
    format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        places.text("tokens")
    )
}

/// `iam.cfg`
pub fn iam(places: &Places, node_type: &str) -> Result<Value> {
    let library = softhsm()?;
    let module = |id: &str, algorithm: &str, token: &str, max: u32, usage: &[&str]| {
        let names: &[&str] = if usage.is_empty() { &[] } else { &["localhost"] };
        json!({
            "id": id, "plugin": "pkcs11module", "algorithm": algorithm, "maxItems": max,
            "extendedKeyUsage": usage, "alternativeNames": names,
            "params": {
                "library": library, "tokenLabel": token, "userPinPath": places.text("iam/.usrpin"),
                "modulePathInUrl": true,
            },
        })
    };
    let both = ["serverAuth", "clientAuth"];
    Ok(json!({
        "caCert": places.text("root.pem"),
        "certStorage": "iam",
        "iamPublicServerURL": format!(":{IAM_PUBLIC}"),
        "iamProtectedServerURL": format!(":{IAM_PROTECTED}"),
        "workingDir": places.text("iam"),
        "migration": {"migrationPath": places.text("migration"), "mergedMigrationPath": places.text("iam/migration")},
        "enablePermissionsHandler": true,
        "authorizeCallers": true,
        "nodeInfo": {
            "provisioningStatePath": places.text("provisionstate"),
            "nodeIDPath": places.text("node_id"),
            "nodeName": "main", "nodeType": node_type, "maxDMIPS": 10000, "os": "linux", "architecture": architecture(),
            "attrs": {"MainNode": "", "AosComponents": "cm,iam,sm"},
            "partitions": [
                {"name": "storages", "types": ["storages"], "path": places.text("storages")},
                {"name": "states", "types": ["states"], "path": places.text("states")},
                {"name": "workdirs", "types": ["services"], "path": places.text("sm")},
            ],
        },
        "identifier": {"plugin": "fileidentifier", "params": {
            "systemIDPath": places.text("system_id"),
            "unitModelPath": places.text("unit_model"),
            "subjectsPath": places.text("subjects"),
        }},
        "certModules": [
            module("online", "ecc", "aoscloud", 2, &[]),
            module("offline", "rsa", "aoscloud", 5, &[]),
            module("iam", "ecc", "aoscore", 2, &both),
            module("cm", "ecc", "aoscore", 2, &both),
            module("sm", "ecc", "aoscore", 2, &both),
        ],
    }))
}

/// `cm.cfg`; `discovery` is used where the online certificate names no cloud.
pub fn cm(places: &Places, discovery: &str) -> Value {
    json!({
        "serviceDiscoveryUrl": discovery,
        "caCert": places.text("root.pem"),
        "certStorage": "cm",
        "workingDir": places.text("cm"),
        "storageDir": places.text("storages"),
        "stateDir": places.text("states"),
        "iamPublicServerUrl": format!("localhost:{IAM_PUBLIC}"),
        "iamProtectedServerUrl": format!("localhost:{IAM_PROTECTED}"),
        "cmServerUrl": format!(":{CM}"),
        "fileServerUrl": format!("localhost:{FILES}"),
        "dnsStoragePath": places.text("dns"),
        "unitStatusSendTimeout": "200ms",
        "imageManager": {"installPath": places.text("cm/install"), "downloadPath": places.text("cm/download")},
        "migration": {"migrationPath": places.text("migration"), "mergedMigrationPath": places.text("cm/migration")},
    })
}

/// `sm.cfg`
pub fn sm(places: &Places) -> Value {
    let executable =
        ["/usr/bin/crun", "/usr/local/bin/crun"].into_iter().find(|path| Path::new(path).exists());
    json!({
        "workingDir": places.text("sm"),
        "caCert": places.text("root.pem"),
        "certStorage": "sm",
        "iamPublicServerURL": format!("localhost:{IAM_PUBLIC}"),
        "iamProtectedServerURL": format!("localhost:{IAM_PROTECTED}"),
        "cmServerURL": format!("localhost:{CM}"),
        "cmReconnectTimeout": "1s",
        "resourcesConfigFile": places.text("resources.cfg"),
        "migration": {"migrationPath": places.text("migration"), "mergedMigrationPath": places.text("sm/migration")},
        "runtimes": [{
            "plugin": "container", "type": "crun",
            "config": {
                "runtimeDir": places.text("run/runtime"),
                "storageDir": places.text("storages"),
                "stateDir": places.text("states"),
                "crunStateRoot": places.text("run/crun"),
                "crunExecutable": executable.unwrap_or("/usr/bin/crun"),
                // The test service does not listen to SIGTERM.
                "stopGrace": "1s",
            },
        }],
    })
}

/// The architecture as OCI images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
