//! First provisioning of a Unit: its nodes make keys, the cloud signs them, the nodes install the certificates.
//!
//! Speaks iamanager v6 in plaintext, as a Unit without certificates offers it, in the order the official
//! provisioning tool uses. What was asked is saved before the cloud is called, so that a run that was cut
//! off is taken up where it stopped: keys are not made twice and the cloud answers an equal request equally.

mod unit;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aos_unit_api::iamanager::v6;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::unit::Unit;
use crate::args::Provision;
use crate::cloud::{Cloud, segment};
use crate::output::{Output, elements, text};
use crate::profile::Home;

/// What one run asks of the cloud; saved until the Unit is finished.
#[derive(Serialize, Deserialize)]
struct Plan {
    system_id: String,
    main_node: String,
    nodes: Vec<String>,
    request: Value,
}

pub async fn provision(cloud: &Cloud, home: &Home, args: &Provision, out: &Output) -> Result<()> {
    let me = cloud.get("users/me/").await?;
    if me["role"] != "oem" {
        bail!(
            "provisioning needs an OEM user, this profile is '{}'; choose one with --profile",
            text(&me, "/role")
        );
    }
    let unit = Unit::connect(&args.unit, Duration::from_secs(args.wait), out).await?;
    let system = unit.system().await?;
    let saved = format!("provisioning-{}.json", hex::encode(&system.system_id));
    let owners = format!("owner-passwords-{}.json", hex::encode(&system.system_id));
    if args.restart {
        home.forget(&saved)?;
    }
    let plan = match home.recall::<Plan>(&saved)? {
        Some(plan) if plan.system_id == system.system_id => {
            out.progress(&format!("taking up the provisioning of {} that was cut off", system.system_id));
            plan
        }
        _ => {
            refuse_if_known(cloud, &system.system_id).await?;
            let nodes = unit.nodes(args.nodes, Duration::from_secs(args.wait), out).await?;
            let passwords = owner_passwords(home, &owners, &nodes)?;
            let plan = prepare(&unit, &system, nodes, passwords, out).await?;
            home.remember(&saved, &plan)?;
            plan
        }
    };
    out.progress("asking the cloud to sign");
    let issued = cloud
        .post("units/provisioning/", &plan.request)
        .await
        .context("the cloud did not register the Unit")?;
    install(&unit, &plan, &issued, out).await?;
    home.forget(&saved)?;
    home.forget(&owners)?;
    let listed =
        cloud.get(&format!("units/?system_uid={}", segment(&plan.system_id)?)).await.unwrap_or_default();
    let summary = json!({
        "system_uid": plan.system_id,
        "id": elements(&listed).first().map(|unit| unit["id"].clone()),
        "nodes": plan.nodes,
    });
    out.show(&summary, |unit| format!("Unit {} is provisioned", text(unit, "/system_uid")))
}

/// A Unit that the cloud knows as provisioned keeps its certificates until an operator says otherwise.
async fn refuse_if_known(cloud: &Cloud, system_id: &str) -> Result<()> {
    let listed = cloud.get(&format!("units/?system_uid={}", segment(system_id)?)).await?;
    let status = elements(&listed).first().map(|unit| text(unit, "/status")).unwrap_or_default();
    if !status.is_empty() && status != "new" {
        bail!(
            "the cloud knows Unit {system_id} as '{status}'; deprovision it first: aosctl unit deprovision {system_id}"
        );
    }
    Ok(())
}

/// The owner password of each node's tokens. Kept from before the first use until the cloud has them and the
/// Unit is finished: a token that was taken by a run that was cut off opens only with the same password.
fn owner_passwords(home: &Home, file: &str, nodes: &[v6::NodeInfo]) -> Result<BTreeMap<String, String>> {
    let known: BTreeMap<String, String> = home.recall(file)?.unwrap_or_default();
    let mut passwords = BTreeMap::new();
    for node in nodes {
        let password = known.get(&node.node_id).cloned().map_or_else(random_password, Ok)?;
        passwords.insert(node.node_id.clone(), password);
    }
    home.remember(file, &passwords)?;
    Ok(passwords)
}

/// Keys and signing requests of all nodes, main node first.
async fn prepare(
    unit: &Unit,
    system: &v6::SystemInfo,
    mut nodes: Vec<v6::NodeInfo>,
    passwords: BTreeMap<String, String>,
    out: &Output,
) -> Result<Plan> {
    let is_main =
        |node: &v6::NodeInfo| node.attrs.iter().any(|attr| attr.name.eq_ignore_ascii_case("MainNode"));
    nodes.sort_by_key(|node| (!is_main(node), node.node_id.clone()));
    let main_node = nodes.first().filter(|node| is_main(node)).map(|node| node.node_id.clone());
    let main_node = main_node.context("no node says that it is the main node (attribute MainNode)")?;

    let mut signing = Signing::default();
    for node in &nodes {
        let password = &passwords[&node.node_id];
        out.progress(&format!("node {}: making keys", node.node_id));
        unit.start(&node.node_id, password).await?;
        for cert_type in unit.cert_types(&node.node_id).await? {
            let csr = unit.create_key(&node.node_id, &cert_type, password).await?;
            signing.add(&node.node_id, &cert_type, &csr);
        }
    }
    // One text field in some Units holds both; newer ones tell the version apart.
    let (model, version) = match system.unit_model.split_once(';') {
        Some((model, version)) => (model.to_owned(), version.to_owned()),
        None => (system.unit_model.clone(), system.version.clone()),
    };
    let mut request = json!({
        "hardware_id": system.system_id,
        "system_uid": system.system_id,
        "model_name": model,
        "model_version": if version.is_empty() { "Unknown".to_owned() } else { version },
        "provisioning_software": format!("aosctl:{}", env!("CARGO_PKG_VERSION")),
        "additional_csrs": signing.additional,
        "nodes": nodes.iter().map(describe_node).collect::<Vec<_>>(),
        "secure_data": json!({ "version": "2.0.0", "nodes": passwords }).to_string(),
    });
    for (key, value) in signing.cloud_facing {
        request[key] = value;
    }
    Ok(Plan {
        system_id: system.system_id.clone(),
        main_node,
        nodes: nodes.into_iter().map(|node| node.node_id).collect(),
        request,
    })
}

#[derive(Default)]
struct Signing {
    cloud_facing: BTreeMap<String, Value>,
    additional: Vec<Value>,
}

impl Signing {
    fn add(&mut self, node: &str, cert_type: &str, csr: &str) {
        if cert_type == "online" || cert_type == "offline" {
            self.cloud_facing.insert(format!("{cert_type}_public_csr"), csr.into());
            self.cloud_facing.insert(format!("{cert_type}_public_node_id"), node.into());
        } else {
            self.additional.push(json!({ "cert_type": cert_type, "csr": csr, "node_id": node }));
        }
    }
}

async fn install(unit: &Unit, plan: &Plan, issued: &Value, out: &Output) -> Result<()> {
    let mut certificates: Vec<(String, String, String)> = Vec::new();
    for cert_type in ["online", "offline"] {
        if let Some(chain) = issued[format!("{cert_type}_certificate")].as_str().filter(|c| !c.is_empty()) {
            let holder =
                plan.request[format!("{cert_type}_public_node_id")].as_str().unwrap_or(&plan.main_node);
            certificates.push((holder.to_owned(), cert_type.to_owned(), chain.to_owned()));
        }
    }
    for entry in elements(&issued["additional_certs"]) {
        let node = text(entry, "/node_id");
        let node = if node.is_empty() { plan.main_node.clone() } else { node };
        certificates.push((node, text(entry, "/cert_type"), text(entry, "/cert")));
    }
    let asked = plan.request["additional_csrs"].as_array().map_or(0, Vec::len)
        + ["online_public_csr", "offline_public_csr"]
            .iter()
            .filter(|key| !plan.request[**key].is_null())
            .count();
    if certificates.len() != asked {
        bail!("the cloud signed {} certificates of the {asked} asked for", certificates.len());
    }
    out.progress(&format!("installing {asked} certificates"));
    for (node, cert_type, chain) in &certificates {
        unit.apply_cert(node, cert_type, chain).await?;
    }
    // The main node restarts its servers when it is finished, so it comes last.
    for node in plan.nodes.iter().filter(|node| **node != plan.main_node).chain([&plan.main_node]) {
        unit.finish(node).await?;
        out.progress(&format!("node {node}: provisioned"));
    }
    Ok(())
}

fn describe_node(node: &v6::NodeInfo) -> Value {
    let cpu = |cpu: &v6::CpuInfo| {
        let arch = cpu.arch_info.clone().unwrap_or_default();
        let family = if arch.variant.is_empty() {
            arch.architecture.clone()
        } else {
            format!("{}/{}", arch.architecture, arch.variant)
        };
        json!({
            "modelName": cpu.model_name,
            "totalNumCores": cpu.num_cores,
            "totalNumThreads": cpu.num_threads,
            "arch": family,
            "archFamily": arch.architecture,
        })
    };
    let os = node.os_info.clone().unwrap_or_default();
    let partitions = node
        .partitions
        .iter()
        .map(|part| json!({ "name": part.name, "types": part.types, "totalSize": part.total_size }))
        .collect::<Vec<_>>();
    let attrs: BTreeMap<_, _> =
        node.attrs.iter().map(|attr| (attr.name.clone(), attr.value.clone())).collect();
    json!({
        "id": node.node_id,
        "type": node.node_type,
        "name": node.title,
        "cpus": node.cpus.iter().map(cpu).collect::<Vec<_>>(),
        "maxDmips": node.max_dmips,
        "totalRam": node.total_ram,
        "osType": format!("{} {}", os.os, os.version).trim(),
        "attrs": attrs,
        "partitions": partitions,
        "status": node.state,
    })
}

/// 15 letters and digits from the system's generator; the owner password of a node's tokens.
fn random_password() -> Result<String> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut password = String::new();
    while password.len() < 15 {
        let mut byte = [0];
        aws_lc_rs::rand::fill(&mut byte).ok().context("the system's random generator failed")?;
        // Bytes past the last whole multiple of 62 would favour the first letters.
        if byte[0] < 248 {
            password.push(char::from(LETTERS[usize::from(byte[0] % 62)]));
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_fresh_letters_and_digits() {
        let (one, two) = (random_password().unwrap(), random_password().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == 15 && one.chars().all(|c| c.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_run_that_was_cut_off_keeps_the_owner_passwords() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"));
        let node = |id: &str| v6::NodeInfo { node_id: id.into(), ..v6::NodeInfo::default() };
        let first = owner_passwords(&home, "owners", &[node("main")]).unwrap();
        let again = owner_passwords(&home, "owners", &[node("main"), node("other")]).unwrap();
        assert_eq!(again["main"], first["main"]);
        assert_ne!(again["other"], first["main"]);
        home.forget("owners").unwrap();
        assert_ne!(owner_passwords(&home, "owners", &[node("main")]).unwrap(), first);
    }

    #[test]
    fn requests_name_the_node_of_each_key() {
        let mut signing = Signing::default();
        signing.add("main", "online", "CSR1");
        signing.add("main", "cm", "CSR2");
        assert_eq!(signing.cloud_facing["online_public_node_id"], "main");
        assert_eq!(signing.additional[0]["cert_type"], "cm");
    }
}
