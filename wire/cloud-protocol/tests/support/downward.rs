//! Random content that a cloud sends, and the answers to it.

use aos_cloud_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::parts::*;

pub fn push_log() -> impl Strategy<Value = PushLog> {
    let status = select(vec![LogStatus::Ok, LogStatus::Failed, LogStatus::Empty, LogStatus::Absent]);
    (identity(), number(), number(), bytes(), status, error()).prop_map(
        |(node, part, parts_count, content, status, error_info)| PushLog {
            node,
            part,
            parts_count,
            content,
            status,
            error_info,
        },
    )
}

pub fn request_log() -> impl Strategy<Value = RequestLog> {
    let log_type = select(vec![LogType::SystemLog, LogType::InstanceLog, LogType::CrashLog]);
    let times = (option::of(time()), option::of(time()));
    let filter =
        (times, vec(identity(), 0..3), option::of(identity()), option::of(identity()), option::of(number()))
            .prop_map(|((from, till), node_ids, item, subject, instance)| LogFilter {
                from,
                till,
                node_ids,
                item,
                subject,
                instance,
            });
    let kind = select(vec![UploadType::Wss, UploadType::Https]);
    let upload = (kind, option::of(text()), option::of(secret()), option::of(time())).prop_map(
        |(kind, url, bearer_token, bearer_token_ttl)| UploadOptions {
            kind,
            url,
            bearer_token,
            bearer_token_ttl,
        },
    );
    (log_type, filter, option::of(upload)).prop_map(|(log_type, filter, upload_options)| RequestLog {
        log_type,
        filter,
        upload_options,
    })
}

pub fn env_vars_filter() -> impl Strategy<Value = EnvVarsFilter> {
    let variable =
        (word(), text(), option::of(time())).prop_map(|(name, value, ttl)| EnvVar { name, value, ttl });
    (option::of(identity()), option::of(identity()), option::of(number()), vec(variable, 0..3))
        .prop_map(|(item, subject, instance, variables)| EnvVarsFilter { item, subject, instance, variables })
}

pub fn env_var_status() -> impl Strategy<Value = EnvVarStatus> {
    (identity(), identity(), number(), word(), error()).prop_map(
        |(item, subject, instance, name, error_info)| EnvVarStatus {
            item,
            subject,
            instance,
            name,
            error_info,
        },
    )
}

pub fn blob() -> impl Strategy<Value = BlobInfo> {
    let decrypt = (select(vec![AES256_CBC, "AES256/GCM/"]), bytes(), bytes())
        .prop_map(|(alg, iv, key)| DecryptInfo { block_alg: alg.to_owned(), block_iv: iv, block_key: key });
    let sign = (text(), select(vec![RSA_SHA256, "EC/SHA256"]), bytes(), time()).prop_map(
        |(chain_name, alg, value, time)| SignInfo {
            chain_name,
            alg: alg.to_owned(),
            value,
            trusted_timestamp: Some(time),
            ocsp_values: Vec::new(),
        },
    );
    (digest(), vec(text(), 1..4), any::<[u8; 32]>(), number(), decrypt, sign).prop_map(
        |(digest, urls, hash, size, decrypt, sign)| BlobInfo {
            digest,
            urls,
            sha256: ServedHash(hash),
            size,
            decrypt_info: Some(decrypt),
            sign_info: Some(sign),
        },
    )
}

pub fn state_data() -> impl Strategy<Value = InstanceStateData> {
    (option::of(identity()), option::of(identity()), number(), checksum(), "\\PC{0,200}").prop_map(
        |(item, subject, instance, state_checksum, state)| InstanceStateData {
            item,
            subject,
            instance,
            state_checksum,
            state,
        },
    )
}

pub fn renewal() -> impl Strategy<Value = RenewCertificatesNotification> {
    let certificate = (certificate_type(), identity(), option::of(text()), option::of(time()))
        .prop_map(|(kind, node, serial, valid_till)| CertificateToRenew { kind, node, serial, valid_till });
    let node = (identity(), secret()).prop_map(|(node, secret)| NodeSecret { node, secret });
    (vec(certificate, 0..3), vec(node, 0..3)).prop_map(|(certificates, nodes)| {
        let unit_secrets = UnitSecrets { version: 7, nodes };
        RenewCertificatesNotification { certificates, unit_secrets }
    })
}

pub fn desired_status() -> impl Strategy<Value = DesiredStatus> {
    let node_state = select(vec![DesiredNodeState::Provisioned, DesiredNodeState::Paused]);
    let node = (identity(), node_state).prop_map(|(item, state)| NodeDesiredState { item, state });
    let item = (identity(), text(), identity(), digest())
        .prop_map(|(item, version, owner, index_digest)| DesiredItem { item, version, owner, index_digest });
    let instance =
        (identity(), identity(), 0..=MAX_INSTANCE_PRIORITY, 1..=MAX_NUM_INSTANCES, vec(word(), 0..3))
            .prop_map(|(item, subject, priority, num_instances, labels)| DesiredInstance {
                item,
                subject,
                priority,
                num_instances,
                labels,
            });
    let subject_type = select(vec![SubjectType::Group, SubjectType::User]);
    let subject =
        (identity(), subject_type, any::<bool>()).prop_map(|(identity, kind, is_reported_from_unit)| {
            Subject { identity, kind, is_reported_from_unit }
        });
    let certificate =
        (bytes(), text()).prop_map(|(certificate, fingerprint)| CertificateInfo { certificate, fingerprint });
    let chain =
        (text(), vec(text(), 0..3)).prop_map(|(name, fingerprints)| CertificateChain { name, fingerprints });
    (
        option::of(vec(node, 0..3)),
        option::of(unit_config()),
        option::of(vec(item, 0..3)),
        option::of(vec(instance, 0..3)),
        option::of(vec(subject, 0..3)),
        option::of(vec(certificate, 0..3)),
        option::of(vec(chain, 0..3)),
    )
        .prop_map(
            |(nodes, unit_config, items, instances, subjects, certificates, certificate_chains)| {
                DesiredStatus {
                    nodes,
                    unit_config,
                    items,
                    instances,
                    subjects,
                    certificates,
                    certificate_chains,
                }
            },
        )
}

pub fn unit_config() -> impl Strategy<Value = UnitConfig> {
    let seconds = || (1..100_000_u64).prop_map(std::time::Duration::from_secs);
    let percents = move || {
        (quarter(), quarter(), seconds()).prop_map(|(min_threshold, max_threshold, min_timeout)| {
            AlertRulePercents { min_threshold, max_threshold, min_timeout }
        })
    };
    let points = move || {
        (number(), number(), seconds()).prop_map(|(min_threshold, max_threshold, min_timeout)| {
            AlertRulePoints { min_threshold, max_threshold, min_timeout }
        })
    };
    let partition = (word(), percents()).prop_map(|(name, rule)| PartitionAlertRule {
        name,
        min_threshold: rule.min_threshold,
        max_threshold: rule.max_threshold,
        min_timeout: rule.min_timeout,
    });
    let rules = (
        option::of(percents()),
        option::of(percents()),
        option::of(vec(partition, 0..3)),
        option::of(points()),
        option::of(points()),
    )
        .prop_map(|(cpu, ram, partitions, download, upload)| AlertRules {
            cpu,
            ram,
            partitions,
            download,
            upload,
        });
    let ratios = (option::of(quarter()), option::of(quarter()), option::of(quarter()), option::of(quarter()))
        .prop_map(|(cpu, ram, storage, state)| ResourceRatios { cpu, ram, storage, state });
    let node = (
        identity(),
        option::of(identity()),
        option::of(rules),
        option::of(ratios),
        option::of(vec(word(), 0..3)),
        0..u32::MAX,
    )
        .prop_map(|(node_group_subject, node, alert_rules, resource_ratios, labels, priority)| {
            NodeConfig { node_group_subject, node, alert_rules, resource_ratios, labels, priority }
        });
    (text(), text(), vec(node, 0..3)).prop_map(|(version, format_version, nodes)| UnitConfig {
        version,
        format_version,
        nodes,
    })
}
