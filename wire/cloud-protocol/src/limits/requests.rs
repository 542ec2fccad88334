//! Limits of what the cloud sends besides `desiredStatus`.

use super::{CHAIN, Findings, NAME, NODES, RENEWED, URL};
use crate::{
    AosIdentity, BlobUrls, FinishProvisioningRequest, InstanceStateData, IssuedUnitCertificates, LogFilter,
    MAX_BLOBS, MAX_STATE, OverrideEnvVars, RenewCertificatesNotification, RequestLog, Secret,
    StateAcceptance, StateChecksum, UploadType,
};

pub(super) fn blob_urls(findings: &mut Findings, correlation_id: Option<&str>, urls: &BlobUrls) {
    let reason = "is missing, so nobody waits for the answer";
    findings.needs("correlationId", correlation_id.is_some_and(|id| !id.is_empty()), reason);
    findings.count("items", urls.items.len(), MAX_BLOBS);
    for (at, blob) in urls.items.iter().enumerate() {
        let path = format!("items[{at}]");
        findings.needs(format!("{path}.urls"), !blob.urls.is_empty(), "is empty");
        findings.count(format!("{path}.urls"), blob.urls.len(), 8);
        for (at, url) in blob.urls.iter().enumerate() {
            findings.length(format!("{path}.urls[{at}]"), url.len(), URL);
        }
        if let Some(info) = &blob.decrypt_info {
            findings.length(format!("{path}.decryptInfo.blockAlg"), info.block_alg.len(), NAME);
            findings.length(format!("{path}.decryptInfo.blockIv"), info.block_iv.0.len(), 16);
            findings.length(format!("{path}.decryptInfo.blockKey"), info.block_key.0.len(), 64);
        }
        if let Some(info) = &blob.sign_info {
            findings.length(format!("{path}.signInfo.chainName"), info.chain_name.len(), NAME);
            findings.length(format!("{path}.signInfo.alg"), info.alg.len(), NAME);
            findings.length(format!("{path}.signInfo.value"), info.value.0.len(), 512);
            findings.needs(
                format!("{path}.signInfo.trustedTimestamp"),
                info.trusted_timestamp.is_some(),
                "is missing",
            );
            // Never written by us; a tool may look at messages of others.
            findings.count(format!("{path}.signInfo.ocspValues"), info.ocsp_values.len(), 4);
            for (at, value) in info.ocsp_values.iter().enumerate() {
                findings.length(format!("{path}.signInfo.ocspValues[{at}]"), value.len(), NAME);
            }
        }
    }
}

pub(super) fn request_log(findings: &mut Findings, request: &RequestLog) {
    let LogFilter { node_ids, item, subject, .. } = &request.filter;
    findings.needs("filter.nodeIds", !node_ids.is_empty(), "is empty, which Units read as no node at all");
    findings.count("filter.nodeIds", node_ids.len(), NODES);
    for (at, node) in node_ids.iter().enumerate() {
        findings.node(&format!("filter.nodeIds[{at}]"), node);
    }
    findings.optional("filter.item", item.as_ref());
    findings.optional("filter.subject", subject.as_ref());
    if let Some(options) = &request.upload_options {
        findings.needs("uploadOptions.type", options.kind == UploadType::Https, "is not https");
        findings.length("uploadOptions.url", options.url.as_ref().map_or(0, String::len), URL);
        let token = options.bearer_token.as_ref().map_or(0, |token| token.expose().len());
        findings.length("uploadOptions.bearerToken", token, 256);
    }
}

pub(super) fn override_env_vars(findings: &mut Findings, vars: &OverrideEnvVars) {
    findings.count("items", vars.items.len(), 256);
    for (at, filter) in vars.items.iter().enumerate() {
        findings.optional(&format!("items[{at}].item"), filter.item.as_ref());
        findings.optional(&format!("items[{at}].subject"), filter.subject.as_ref());
        let path = format!("items[{at}].variables");
        findings.count(&path, filter.variables.len(), 16);
        for (at, variable) in filter.variables.iter().enumerate() {
            findings.length(format!("{path}[{at}].name"), variable.name.len(), 64);
            findings.length(format!("{path}[{at}].value"), variable.value.len(), 256);
        }
    }
}

pub(super) fn update_state(findings: &mut Findings, data: &InstanceStateData) {
    for (path, identity) in [("item", &data.item), ("subject", &data.subject)] {
        match identity {
            Some(identity) => findings.delivered(path, identity),
            None => findings.needs(path, false, "is missing"),
        }
    }
    checksum(findings, "stateChecksum", &data.state_checksum);
    findings.length("state", data.state.len(), MAX_STATE);
}

pub(super) fn state_acceptance(findings: &mut Findings, acceptance: &StateAcceptance) {
    findings.delivered("item", &acceptance.item);
    findings.delivered("subject", &acceptance.subject);
    checksum(findings, "checksum", &acceptance.checksum);
    findings.length("reason", acceptance.reason.len(), 256);
}

/// Units read hexadecimal digits of at most 32 bytes.
fn checksum(findings: &mut Findings, path: &str, checksum: &StateChecksum) {
    let text = checksum.as_str();
    findings.length(path, text.len(), 64);
    let hexadecimal = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    findings.needs(path, hexadecimal, "is not hexadecimal");
}

pub(super) fn renewal(findings: &mut Findings, renewal: &RenewCertificatesNotification) {
    findings.count("certificates", renewal.certificates.len(), RENEWED);
    for (at, certificate) in renewal.certificates.iter().enumerate() {
        findings.certificate_type(format!("certificates[{at}].type"), &certificate.kind);
        findings.node(&format!("certificates[{at}].node"), &certificate.node);
        let serial = certificate.serial.as_ref().map_or(0, String::len);
        findings.length(format!("certificates[{at}].serial"), serial, 40);
    }
    let secrets = &renewal.unit_secrets.nodes;
    findings.count("unitSecrets.nodes", secrets.len(), NODES);
    for (at, secret) in secrets.iter().enumerate() {
        findings.node(&format!("unitSecrets.nodes[{at}].node"), &secret.node);
        findings.length(format!("unitSecrets.nodes[{at}].secret"), secret.secret.expose().len(), NAME);
    }
}

pub(super) fn issued(findings: &mut Findings, issued: &IssuedUnitCertificates) {
    findings.count("certificates", issued.certificates.len(), RENEWED);
    for (at, certificate) in issued.certificates.iter().enumerate() {
        findings.certificate_type(format!("certificates[{at}].type"), &certificate.kind);
        findings.node(&format!("certificates[{at}].node"), &certificate.node);
        chain(findings, &format!("certificates[{at}].certificateChain"), &certificate.certificate_chain);
    }
}

pub(super) fn finish_provisioning(findings: &mut Findings, request: &FinishProvisioningRequest) {
    node_request(findings, &request.node, &request.password);
    findings.count("certificates", request.certificates.len(), RENEWED);
    for (at, certificate) in request.certificates.iter().enumerate() {
        findings.certificate_type(format!("certificates[{at}].type"), &certificate.kind);
        chain(findings, &format!("certificates[{at}].chain"), &certificate.chain);
    }
}

fn chain(findings: &mut Findings, path: &str, pem: &str) {
    findings.length(path, pem.len(), CHAIN);
    findings.count(path, pem.matches("-----BEGIN CERTIFICATE-----").count(), 4);
}

pub(super) fn node_request(findings: &mut Findings, node: &AosIdentity, password: &Secret) {
    findings.node("node", node);
    findings.length("password", password.expose().len(), NAME);
}
