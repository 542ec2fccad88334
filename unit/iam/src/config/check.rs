//! The rules a configuration must keep beyond its types.

use std::path::Path;

use super::{
    Algorithm, CertModule, CertModuleConfig, Checked, Config, ConfigError, KeyUsage, NodeInfoConfig,
};
use crate::iamserver::access::DEFAULT_RULES;

const MAX_MODULES: usize = 8;
const MAX_CERTIFICATES: u32 = 5;
const MAX_TYPE_NAME: usize = 16;
const MAX_KEY_USAGES: usize = 2;
const MAX_NAMES: usize = 4;
const MAX_NAME_LENGTH: usize = 42;
const MAX_ATTRIBUTES: usize = 16;
const MAX_PARTITIONS: usize = 4;
const MAX_PARTITION_TYPES: usize = 4;
const MAX_PARTITION_TYPE: usize = 32;
const MAX_TEXT: usize = 64;
const MAX_SHORT_TEXT: usize = 16;
const MAX_CALLERS: usize = 16;
const API_VERSIONS: [u64; 3] = [5, 6, 7];
const MODULE_PLUGIN: &str = "pkcs11module";
const FILE_PLUGIN: &str = "filemodule";

struct Complaint<'a> {
    file: &'a Path,
}

impl Complaint<'_> {
    fn value(&self, key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            file: self.file.to_owned(),
            key: key.into(),
            reason: reason.into(),
            too_many: false,
        }
    }

    fn at_most(&self, key: impl Into<String>, found: usize, max: usize) -> Result<(), ConfigError> {
        if found <= max {
            return Ok(());
        }
        Err(ConfigError::Value {
            file: self.file.to_owned(),
            key: key.into(),
            reason: format!("{found} given, at most {max} are supported"),
            too_many: true,
        })
    }
}

pub(super) fn check(file: &Path, raw: Config) -> Result<Checked, ConfigError> {
    let complaint = Complaint { file };
    for (key, address) in [
        ("iamPublicServerURL", &raw.iam_public_server_url),
        ("iamProtectedServerURL", &raw.iam_protected_server_url),
    ] {
        if address.is_empty() {
            return Err(complaint.value(key, "missing; an address such as \":8090\" is needed"));
        }
    }
    if raw.api_version.is_some_and(|version| !API_VERSIONS.contains(&version)) {
        return Err(complaint.value("apiVersion", "5, 6 or 7 can be told to clients"));
    }
    if raw.renew_at_percent.is_some_and(|percent| !(1..=99).contains(&percent)) {
        return Err(complaint.value("renewAtPercent", "1 to 99 per cent"));
    }
    check_callers(&complaint, &raw)?;
    let Some(node) = raw.node_info.clone() else {
        return Err(complaint.value("nodeInfo", "missing"));
    };
    check_node(&complaint, &node)?;
    let modules = check_modules(&complaint, &raw.cert_modules, raw.allow_file_keys)?;
    if raw.working_dir.as_os_str().is_empty() {
        return Err(complaint.value("workingDir", "missing; a directory for the database is needed"));
    }
    Ok(Checked { raw, modules, node })
}

fn check_callers(complaint: &Complaint<'_>, raw: &Config) -> Result<(), ConfigError> {
    for (service, callers) in &raw.callers {
        let key = format!("callers.{service}");
        if !DEFAULT_RULES.iter().any(|(known, _)| known == service) {
            let known: Vec<&str> = DEFAULT_RULES.iter().map(|(known, _)| *known).collect();
            return Err(complaint.value(key, format!("unknown, known are {}", known.join(", "))));
        }
        complaint.at_most(key, callers.len(), MAX_CALLERS)?;
    }
    Ok(())
}

/// Peers refuse a node whose description has longer texts.
fn check_node_texts(complaint: &Complaint<'_>, node: &NodeInfoConfig) -> Result<(), ConfigError> {
    let short = |key: &str, text: &str, max: usize| {
        if text.len() <= max {
            return Ok(());
        }
        Err(complaint
            .value(format!("nodeInfo.{key}"), format!("longer than {max} bytes, which no peer accepts")))
    };
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    short("nodeName", &node.node_name, MAX_TEXT)?;
    short("nodeType", &node.node_type, MAX_TEXT)?;
    short("architecture", &optional(&node.architecture), MAX_SHORT_TEXT)?;
    short("architectureVariant", &optional(&node.architecture_variant), MAX_SHORT_TEXT)?;
    short("os", &optional(&node.os), MAX_SHORT_TEXT)?;
    short("osVersion", &optional(&node.os_version), MAX_TEXT)?;
    for (name, value) in &node.attrs {
        short("attrs", name, MAX_TEXT)?;
        short(&format!("attrs.{name}"), value, MAX_TEXT)?;
    }
    for (index, partition) in node.partitions.iter().enumerate() {
        short(&format!("partitions[{index}].name"), &partition.name, MAX_TEXT)?;
        for kind in &partition.types {
            short(&format!("partitions[{index}].types"), kind, MAX_PARTITION_TYPE)?;
        }
    }
    Ok(())
}

fn check_node(complaint: &Complaint<'_>, node: &NodeInfoConfig) -> Result<(), ConfigError> {
    check_node_texts(complaint, node)?;
    complaint.at_most("nodeInfo.attrs", node.attrs.len(), MAX_ATTRIBUTES)?;
    complaint.at_most("nodeInfo.partitions", node.partitions.len(), MAX_PARTITIONS)?;
    for (index, partition) in node.partitions.iter().enumerate() {
        let key = format!("nodeInfo.partitions[{index}].types");
        complaint.at_most(key, partition.types.len(), MAX_PARTITION_TYPES)?;
    }
    Ok(())
}

fn check_modules(
    complaint: &Complaint<'_>,
    entries: &[CertModuleConfig],
    allow_files: bool,
) -> Result<Vec<CertModule>, ConfigError> {
    let mut modules: Vec<CertModule> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let key = |name: &str| format!("certModules[{index}].{name}");
        let in_files = entry.plugin == FILE_PLUGIN;
        if in_files && !allow_files {
            let reason = format!(
                "'{FILE_PLUGIN}' keeps keys in files that can be copied; set 'allowFileKeys' on development \
                 machines, use '{MODULE_PLUGIN}' on all others"
            );
            return Err(complaint.value(key("plugin"), reason));
        }
        if entry.plugin != MODULE_PLUGIN && !in_files {
            let reason = format!("'{}' is unknown, the only one is '{MODULE_PLUGIN}'", entry.plugin);
            return Err(complaint.value(key("plugin"), reason));
        }
        if entry.disabled {
            tracing::warn!("certificate type '{}' is disabled by the configuration", entry.id);
            continue;
        }
        if entry.id.is_empty() || entry.id.len() > MAX_TYPE_NAME {
            let reason = format!("a name of 1 to {MAX_TYPE_NAME} bytes is needed");
            return Err(complaint.value(key("id"), reason));
        }
        if modules.iter().any(|module| module.id == entry.id) {
            return Err(complaint.value(key("id"), format!("'{}' is given twice", entry.id)));
        }
        check_max_items(complaint, &key("maxItems"), entry)?;
        complaint.at_most(key("alternativeNames"), entry.alternative_names.len(), MAX_NAMES)?;
        if let Some(name) = entry.alternative_names.iter().find(|name| name.len() > MAX_NAME_LENGTH) {
            let reason = format!("'{name}' is longer than {MAX_NAME_LENGTH} bytes");
            return Err(complaint.value(key("alternativeNames"), reason));
        }
        if in_files == entry.params.key_dir.as_os_str().is_empty() {
            let reason = format!("needed with '{FILE_PLUGIN}', and only there");
            return Err(complaint.value(key("params.keyDir"), reason));
        }
        if !in_files {
            check_params(complaint, index, entry)?;
        }
        modules.push(CertModule {
            id: entry.id.clone(),
            algorithm: algorithm(complaint, &key("algorithm"), &entry.algorithm_word)?,
            max_items: entry.max_items as usize,
            extended_key_usage: key_usages(complaint, &key("extendedKeyUsage"), entry)?,
            alternative_names: entry.alternative_names.clone(),
            skip_validation: entry.skip_validation,
            self_signed: entry.self_signed,
            params: entry.params.clone(),
        });
        complaint.at_most("certModules", modules.len(), MAX_MODULES)?;
    }
    Ok(modules)
}

fn check_max_items(
    complaint: &Complaint<'_>,
    key: &str,
    entry: &CertModuleConfig,
) -> Result<(), ConfigError> {
    if entry.max_items == 0 {
        return Err(complaint.value(key, "must be at least 1"));
    }
    if !entry.self_signed && entry.max_items < 2 {
        return Err(complaint.value(key, "must be at least 2: renewal needs old and new side by side"));
    }
    if entry.max_items > MAX_CERTIFICATES {
        return complaint.at_most(key, entry.max_items as usize, MAX_CERTIFICATES as usize);
    }
    Ok(())
}

fn check_params(
    complaint: &Complaint<'_>,
    index: usize,
    entry: &CertModuleConfig,
) -> Result<(), ConfigError> {
    let params = &entry.params;
    let key = |name: &str| format!("certModules[{index}].params.{name}");
    if params.library.as_os_str().is_empty() {
        return Err(complaint.value(key("library"), "missing; the path of a PKCS#11 library is needed"));
    }
    let choices = usize::from(params.slot_id.is_some())
        + usize::from(params.slot_index.is_some())
        + usize::from(!params.token_label.is_empty());
    if choices > 1 {
        let reason = "only one of slotID, slotIndex and tokenLabel may be given";
        return Err(complaint.value(format!("certModules[{index}].params"), reason));
    }
    Ok(())
}

fn algorithm(complaint: &Complaint<'_>, key: &str, word: &str) -> Result<Algorithm, ConfigError> {
    match word.to_ascii_lowercase().as_str() {
        "ecc" | "ecdsa" => Ok(Algorithm::Ecc),
        "rsa" => Ok(Algorithm::Rsa),
        _ => Err(complaint.value(key, format!("'{word}' is unknown, known are ecc and rsa"))),
    }
}

fn key_usages(
    complaint: &Complaint<'_>,
    key: &str,
    entry: &CertModuleConfig,
) -> Result<Vec<KeyUsage>, ConfigError> {
    complaint.at_most(key, entry.extended_key_usage_words.len(), MAX_KEY_USAGES)?;
    entry
        .extended_key_usage_words
        .iter()
        .map(|word| match word.to_ascii_lowercase().as_str() {
            "clientauth" => Ok(KeyUsage::ClientAuth),
            "serverauth" => Ok(KeyUsage::ServerAuth),
            _ => {
                Err(complaint.value(key, format!("'{word}' is unknown, known are clientAuth and serverAuth")))
            }
        })
        .collect()
}
