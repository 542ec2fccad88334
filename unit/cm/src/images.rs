//! What the launcher needs to know of an item, read from the verified documents in the store.

use std::collections::BTreeMap;

use aos_content_store::Store;
use aos_ids::Digest;
use aos_item_format::{
    AlertRules, ImageConfig, Index, ItemConfig, MAX_DOCUMENT, Manifest, PercentRule, PointsRule, media_type,
};
use aos_status::{AosCode, ErrorInfo};

use crate::launcher::core::Image;
use crate::launcher::placement::{Amounts, Variant};
use crate::launcher::records::{self, Extras, Threshold};

/// Reads all variants of the item with this index. Variants that cannot be used are left out; without any
/// left the first one's error is the answer.
pub fn load(store: &Store, index: &Digest) -> Result<Image, ErrorInfo> {
    let invalid = |error: &dyn std::fmt::Display| ErrorInfo::new(AosCode::InvalidArgument, error.to_string());
    let index = Index::read(&read(store, index)?).map_err(|error| invalid(&error))?;
    let mut image = Image { variants: Vec::new(), extras: BTreeMap::new() };
    let mut first = None;
    for descriptor in index.manifests {
        match variant(store, &descriptor) {
            Ok((variant, extras)) => {
                image.variants.push(variant);
                image.extras.insert(descriptor.digest, extras);
            }
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if image.variants.is_empty() => Err(error),
        _ => Ok(image),
    }
}

fn read(store: &Store, digest: &Digest) -> Result<Vec<u8>, ErrorInfo> {
    store
        .read(digest, MAX_DOCUMENT as u64)
        .map_err(|error| ErrorInfo::new(AosCode::NotFound, error.to_string()))
}

fn variant(store: &Store, descriptor: &aos_item_format::Descriptor) -> Result<(Variant, Extras), ErrorInfo> {
    let invalid =
        |error: aos_item_format::FormatError| ErrorInfo::new(AosCode::InvalidArgument, error.to_string());
    let manifest = Manifest::read(&read(store, &descriptor.digest)?).map_err(invalid)?;
    let item = manifest
        .aos_item_config
        .as_ref()
        .ok_or_else(|| ErrorInfo::new(AosCode::NotFound, "item has no item configuration"))?;
    let config = ItemConfig::read(&read(store, &item.digest)?).map_err(invalid)?;
    let platform = if manifest.config.media_type == media_type::EMPTY {
        descriptor.platform.clone().unwrap_or_default()
    } else {
        ImageConfig::read(&read(store, &manifest.config.digest)?).map_err(invalid)?.platform()
    };
    let quotas = config.quotas;
    let requested = config.requested_resources;
    let variant = Variant {
        manifest: Some(descriptor.digest),
        platform,
        runtimes: config.runtime_types().into_iter().map(str::to_owned).collect(),
        skip_limits: config.skip_resource_limits,
        quota: Amounts {
            cpu: quotas.cpu_dmips_limit,
            ram: quotas.ram_limit,
            storage: quotas.storage_limit,
            state: quotas.state_limit,
        },
        requested: Amounts {
            cpu: requested.cpu,
            ram: requested.ram,
            storage: requested.storage,
            state: requested.state,
        },
        resources: config.resources.iter().map(|resource| resource.name.clone()).collect(),
    };
    let extras = Extras {
        storage: quotas.storage_limit.unwrap_or(0),
        state: quotas.state_limit.unwrap_or(0),
        alerts: (!config.alert_rules.is_empty()).then(|| alert_rules(&config.alert_rules)),
    };
    Ok((variant, extras))
}

fn millis(time: aos_duration_text::DurationText) -> u64 {
    u64::try_from(time.get().as_millis()).unwrap_or(u64::MAX)
}

fn alert_rules(rules: &AlertRules) -> records::AlertRules {
    let percent = |name: &str, rule: &PercentRule| Threshold {
        name: name.to_owned(),
        millis: millis(rule.min_timeout),
        min: rule.min_threshold,
        max: rule.max_threshold,
    };
    #[allow(clippy::cast_precision_loss, reason = "thresholds of traffic need no single bytes")]
    let points = |rule: &PointsRule| Threshold {
        name: String::new(),
        millis: millis(rule.min_timeout),
        min: rule.min_threshold as f64,
        max: rule.max_threshold as f64,
    };
    records::AlertRules {
        ram: rules.ram.as_ref().map(|rule| percent("", rule)),
        cpu: rules.cpu.as_ref().map(|rule| percent("", rule)),
        partitions: rules.partitions.iter().map(|one| percent(&one.name, &one.rule)).collect(),
        download: rules.download.as_ref().map(points),
        upload: rules.upload.as_ref().map(points),
    }
}
