use std::collections::HashMap;
use std::time::Duration;

use aos_duration_text::DurationText;
use aos_ids::{Digest, Version};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(n: u8) -> Digest {
    Digest::from_sha256([n; 32])
}

fn item(value: Value) -> ItemConfig {
    ItemConfig::from_value(value).unwrap()
}

fn item_error(value: Value) -> String {
    ItemConfig::from_value(value).unwrap_err().to_string()
}

const FULL_ITEM: &str = r#"{
  "created": "2026-03-02T08:15:00Z", "author": "Axle Works", "skipResourceLimits": true,
  "hostname": "tyre-watch", "balancingPolicy": "disabled",
  "runtimes": [{ "codename": "crun" }, { "codename": "youki" }],
  "runParameters": { "startInterval": "PT20S", "startBurst": 4, "restartInterval": "PT2S" },
  "sysctl": { "net.core.somaxconn": "128" }, "offlineTTL": "P2D",
  "quotas": {
    "cpuDMIPSLimit": 800, "ramLimit": 100663296, "pidsLimit": 64, "noFileLimit": 512,
    "tmpLimit": 8388608, "stateLimit": 65536, "storageLimit": 16777216,
    "uploadSpeed": 512, "downloadSpeed": 2048, "uploadLimit": 104857600, "downloadLimit": 524288000
  },
  "requestedResources": { "cpu": 300, "ram": 50331648, "storage": 4194304, "state": 16384 },
  "allowedConnections": { "6f1c2a52-9a0e-4a53-9a4f-0d6f6f3c9b11/7447/tcp": {} },
  "resources": [{ "name": "can0", "mode": "rw" }],
  "permissions": { "kuksa": { "Vehicle.Chassis.Axle.*": "r" } },
  "alertRules": {
    "ram": { "minTimeout": "PT30S", "minThreshold": 60, "maxThreshold": 85 },
    "partitions": [{ "name": "storages", "minTimeout": "PT1M", "minThreshold": 70, "maxThreshold": 90 }],
    "upload": { "minTimeout": "PT5M", "minThreshold": 50000000, "maxThreshold": 90000000 }
  },
  "baseLayerIsNodeRootfs": false,
  "dependencies": [{ "identifier": { "id": "other" }, "condition": "started" }]
}"#;

#[test]
fn every_key_of_an_item_is_read() {
    let config = ItemConfig::read(FULL_ITEM.as_bytes()).unwrap();
    assert_eq!(config.author.as_deref(), Some("Axle Works"));
    assert!(config.skip_resource_limits && !config.base_layer_is_node_rootfs);
    assert_eq!(config.balancing_policy, BalancingPolicy::Disabled);
    assert_eq!(config.runtime_types(), ["crun", "youki"]);
    assert_eq!(config.run_parameters.start_interval, DurationText::from_secs(20));
    assert_eq!(config.run_parameters.start_burst, 4);
    assert_eq!(config.sysctl["net.core.somaxconn"], "128");
    assert_eq!(config.offline_ttl.unwrap().get(), Duration::from_hours(48));
    assert_eq!((config.quotas.cpu_dmips_limit, config.quotas.download_limit), (Some(800), Some(524_288_000)));
    assert_eq!(config.requested_resources.state, Some(16_384));
    let connection = &config.allowed_connections[0];
    assert_eq!((connection.first_port, connection.last_port), (7447, 7447));
    assert_eq!(config.resources, [ResourceRequest { name: "can0".into(), mode: "rw".into() }]);
    assert_eq!(config.permissions["kuksa"]["Vehicle.Chassis.Axle.*"], "r");
    assert_eq!(config.alert_rules.partitions[0].name, STORAGES_PARTITION);
    assert!((config.alert_rules.ram.unwrap().max_threshold - 85.0).abs() < f64::EPSILON);
    assert_eq!(config.dependencies[0].identifier.id.as_deref(), Some("other"));
    // Nothing is lost in writing, and the form is the newest one.
    let original: Value = serde_json::from_str(FULL_ITEM).unwrap();
    let mut written: Value = serde_json::from_slice(&config.write()).unwrap();
    for rule in ["ram", "storages"] {
        let rules = &mut written["alertRules"];
        let rule = if rule == "ram" { &mut rules["ram"] } else { &mut rules["partitions"][0] };
        for key in ["minThreshold", "maxThreshold"] {
            rule[key] = json!(rule[key].as_f64().map(|value| format!("{value}").parse::<u64>().unwrap()));
        }
    }
    assert_eq!(written, original);
    assert_eq!(ItemConfig::read(&config.write()).unwrap(), config);
}

#[test]
fn an_empty_item_has_the_documented_defaults() {
    let config = item(json!({}));
    assert_eq!(config, ItemConfig::default());
    assert_eq!(config.runtime_types(), ["crun", "runc"]);
    assert_eq!(config.run_parameters.start_burst, 3);
    assert_eq!(config.run_parameters.start_interval, DurationText::from_secs(5));
    assert_eq!(config.run_parameters.restart_interval, DurationText::from_secs(1));
    assert!(config.base_layer_is_node_rootfs && config.quotas.is_empty());
    let all_null: Value = serde_json::from_str::<serde_json::Map<_, _>>(FULL_ITEM)
        .unwrap()
        .into_iter()
        .map(|(key, _)| (key, Value::Null))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(item(all_null), config);
}

#[test]
fn all_forms_of_an_item_mean_the_same() {
    let modern = item(json!({
        "runtimes": [{"codename": "crun"}, {"codename": "runc"}],
        "allowedConnections": {"a/80/tcp": {}, "b/1000-2000/udp": {}},
        "resources": [{"name": "can0", "mode": "r"}],
        "quotas": {"cpuDMIPSLimit": 5},
        "alertRules": {"partitions": [{"name": "storages", "minThreshold": 1, "maxThreshold": 2}]},
    }));
    let older = [
        json!({
            "runners": ["crun", "runc"], "allowedConnections": ["b/1000:2000/udp", "a/80", "a/80/TCP"],
            "resources": ["can0"], "quotas": {"cpuDmipsLimit": "5"},
            "alertRules": {"storage": {"minThreshold": 1, "maxThreshold": 2, "minTimeout": null}},
        }),
        json!({
            "RUNTIMES": ["crun", "runc"], "runners": ["x"],
            "allowedConnections": [{"a/80/tcp": {}}, {"b/1000-2000/udp": {}}],
            "Resources": [{"NAME": "can0", "Mode": null}], "Quotas": {"CPUDMIPSLIMIT": 5},
            "alertRules": {"partitions": [{"Name": "storages", "MinThreshold": 1, "MAXThreshold": 2}]},
            "unknown": {"any": ["thing"]}, "devices": {"name": "x"},
        }),
    ];
    for form in older {
        assert_eq!(item(form), modern);
    }
}

#[test]
fn a_failing_field_fails_the_item_with_its_path() {
    assert!(item_error(json!({"quotas": {"ramLimit": -1}})).contains("quotas.ramLimit: "));
    assert!(item_error(json!({"offlineTTL": "PT7D"})).contains("offlineTTL: 'PT7D' is no duration"));
    assert!(item_error(json!({"offlineTTL": 0})).contains("offlineTTL: must be longer"));
    assert!(item_error(json!({"balancingPolicy": "sometimes"})).contains("balancingPolicy: "));
    for bad in ["a", "a/0", "a/x", "a/20-10", "a/80/icmp", "a/80/tcp/x", "/80", "a/70000"] {
        assert!(item_error(json!({"allowedConnections": [bad]})).contains("is no connection"), "{bad}");
    }
}

#[test]
fn alert_rules_without_thresholds_are_absent_and_wrong_ones_refused() {
    let rules = |value: Value| ItemConfig::from_value(json!({"alertRules": {"ram": value}}));
    for absent in [
        json!({"minTimeout": "PT1S", "minThreshold": null, "maxThreshold": 80}),
        json!({"minTimeout": "PT1S", "minThreshold": 10}),
        json!({}),
        json!(null),
    ] {
        assert!(rules(absent).unwrap().alert_rules.is_empty());
    }
    assert!(
        rules(json!({"minThreshold": 90, "maxThreshold": 80})).unwrap_err().to_string().contains("above")
    );
    assert!(rules(json!({"minThreshold": 0, "maxThreshold": 101})).is_err());
    let timeout = |value: Value| {
        let rule = rules(json!({"minTimeout": value, "minThreshold": 1, "maxThreshold": 2}));
        rule.map(|config| config.alert_rules.ram.unwrap().min_timeout.get())
    };
    for (text, millis) in [
        (json!("PT10S"), 10_000),
        (json!(10), 10_000),
        (json!(10.4), 10_400),
        (json!("10s"), 10_000),
        (json!(null), 0),
    ] {
        assert_eq!(timeout(text).unwrap(), Duration::from_millis(millis));
    }
    assert!(timeout(json!("PT7D")).is_err() && timeout(json!(-1)).is_err());
}

#[test]
fn image_configurations_of_oci_and_of_older_tools() {
    let oci = ImageConfig::from_value(json!({
        "created": "2026-03-02T08:15:00Z", "architecture": "arm64", "variant": "v8", "os": "linux",
        "os.version": "1", "os.features": ["x"], "history": [{}],
        "config": {
            "Env": ["PATH=/bin"], "Entrypoint": ["/app"], "Cmd": ["--port", "80"], "WorkingDir": "/srv",
            "ExposedPorts": {"8080/tcp": {}, "53/UDP": {}, "80": {}, "8089-8090/tcp": {}}, "User": "root", "Labels": {"a": "b"},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(1).to_string()]},
    }))
    .unwrap();
    assert_eq!(oci.config.arguments(), ["/app", "--port", "80"]);
    let ports: Vec<_> =
        oci.config.ports().iter().map(|port| (port.port, port.last_port, port.protocol.as_str())).collect();
    assert_eq!(ports, [(53, 53, "udp"), (80, 80, "tcp"), (8080, 8080, "tcp"), (8089, 8090, "tcp")]);
    assert_eq!(oci.rootfs.diff_ids, [digest(1)]);
    assert_eq!((oci.platform().os_version.as_str(), oci.platform().os_features.len()), ("1", 1));
    assert_eq!(ImageConfig::read(&oci.write()).unwrap(), oci);
    let written: Value = serde_json::from_slice(&oci.write()).unwrap();
    assert!(written["config"]["WorkingDir"].is_string() && written["os.version"].is_string());
    let lower = ImageConfig::from_value(json!({"config": {"env": ["A=1"], "cmd": null}})).unwrap();
    assert_eq!((lower.config.env.len(), lower.config.arguments().len()), (1, 0));
    assert_eq!(ImageConfig::read(b"{}").unwrap(), ImageConfig::default());
    for port in ["0/tcp", "90-80/tcp", "1-65536", "80/icmp"] {
        let bad_port = json!({"config": {"exposedPorts": {port: {}}}});
        assert!(ImageConfig::from_value(bad_port).unwrap_err().to_string().contains("config.exposedPorts"));
    }
}

#[test]
fn platforms_match_by_meaning() {
    let platform = |architecture: &str, variant: &str, os: &str| Platform {
        architecture: architecture.into(),
        variant: variant.into(),
        os: os.into(),
        ..Platform::default()
    };
    let amd = platform("x86_64", "", "linux");
    assert!(platform("amd64", "", "Linux").runs_on(&amd));
    assert!(platform("X86_64", "", "").runs_on(&platform("amd64", "v3", "linux")));
    assert!(!platform("arm64", "", "linux").runs_on(&amd));
    assert!(!platform("amd64", "v3", "linux").runs_on(&amd));
    assert!(!platform("amd64", "", "windows").runs_on(&amd));
    assert!(!platform("", "", "").runs_on(&platform("", "", "")));
    assert!(platform("arm64", "v8", "linux").runs_on(&platform("aarch64", "", "linux")));
    assert!(!platform("arm", "v8", "linux").runs_on(&platform("arm", "", "linux")));
    let featured = Platform { os_features: vec!["a".into()], os_version: "5".into(), ..amd.clone() };
    assert!(!featured.runs_on(&amd) && amd.runs_on(&featured) && featured.runs_on(&featured));
}

#[test]
fn manifests_name_the_item_configuration_in_both_ways() {
    let part = |n: u8| json!({"mediaType": "x", "digest": digest(n).to_string(), "size": n});
    let read = |value: Value| Manifest::from_value(value).unwrap();
    let modern =
        read(json!({"schemaVersion": 2, "config": part(1), "aosItemConfig": part(2), "layers": [part(3)]}));
    assert_eq!(modern.aos_item_config.as_ref().unwrap().digest, digest(2));
    assert_eq!(read(json!({"config": part(1), "AosService": part(2), "layers": [part(3)]})), modern);
    let both = read(
        json!({"config": part(1), "aosService": part(9), "aosItemConfig": part(2), "layers": [part(3)]}),
    );
    assert_eq!(both, modern);
    assert_eq!(modern.blobs().map(|blob| blob.size).collect::<Vec<_>>(), [1, 2, 3]);
    let written = Manifest::new(modern.config.clone(), modern.aos_item_config.clone(), modern.layers.clone());
    let value: Value = serde_json::from_slice(&written.write()).unwrap();
    assert_eq!(value["mediaType"], media_type::MANIFEST);
    assert!(value["aosItemConfig"].is_object() && value.get("aosService").is_none());
    assert_eq!(Manifest::read(&written.write()).unwrap(), written);
    for bad in [
        json!({"schemaVersion": 1, "config": part(1)}),
        json!({"layers": []}),
        json!({"config": {"digest": "sha512:00", "size": 1}}),
        json!({"config": {"digest": digest(1).to_string()}}),
        json!({"config": part(1), "layers": vec![part(1); MAX_LAYERS + 1]}),
    ] {
        assert!(Manifest::from_value(bad).is_err());
    }
}

#[test]
fn documents_are_bounded() {
    let huge = vec![b' '; MAX_DOCUMENT + 1];
    assert!(matches!(Index::read(&huge), Err(FormatError::TooLarge { .. })));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(40), "}".repeat(40));
    assert!(Index::read(deep.as_bytes()).is_err());
    let entry = json!({"digest": digest(1).to_string(), "size": 1});
    assert!(Index::from_value(json!({"manifests": vec![entry.clone(); MAX_MANIFESTS]})).is_ok());
    assert!(Index::from_value(json!({"manifests": vec![entry; MAX_MANIFESTS + 1]})).is_err());
}

fn unit_config() -> UnitConfig {
    UnitConfig::from_value(json!({
        "formatVersion": 7, "version": "1.4.0",
        "nodes": [
            {
                "nodeGroupSubject": {"codename": "central", "title": "Central", "urn": "x"},
                "priority": 100, "labels": ["main", "can"],
                "resourceRatios": {"cpu": 40, "ram": 250},
                "alertRules": {"cpu": {"minTimeout": 15.5, "minThreshold": 65, "maxThreshold": 85}, "partitions": null},
            },
            {"nodeGroupSubject": {"codename": "zone"}, "node": {"codename": "zone-rear"}, "priority": 20},
            {"nodeType": "zone", "devices": [{"name": "x", "hostDevices": []}], "priority": 10},
        ],
    }))
    .unwrap()
}

#[test]
fn unit_configurations_of_both_forms() {
    let config = unit_config();
    assert_eq!((config.format_version.as_str(), config.version.to_string().as_str()), ("7", "1.4.0"));
    let rule = config.nodes[0].alert_rules.cpu.unwrap();
    assert_eq!(rule.min_timeout.get(), Duration::from_millis(15_500));
    let ratios = config.nodes[0].resource_ratios.unwrap();
    assert!((ResourceRatios::factor(ratios.ram) - 1.0).abs() < f64::EPSILON);
    assert!((ResourceRatios::factor(ratios.storage) - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.nodes[2].node_type(), "zone");
    assert_eq!(UnitConfig::read(&config.write()).unwrap(), config);
    for bad in [
        json!({"nodes": []}),
        json!({"version": "1.x"}),
        json!({"version": "1.0.0", "nodes": [{"priority": 1}]}),
        json!({"version": "1.0.0", "nodes": [{"nodeType": "a", "node": {}}]}),
        json!({"version": "1.0.0", "nodes": [{"nodeType": "a", "priority": -1}]}),
    ] {
        assert!(UnitConfig::from_value(bad).is_err());
    }
    let error = UnitConfig::from_value(json!({"version": "1.0.0", "nodes": [{"labels": []}]})).unwrap_err();
    assert!(error.to_string().contains("nodes[0].nodeGroupSubject.codename: is missing"), "{error}");
}

#[test]
fn a_node_gets_its_own_entry_else_that_of_its_type_else_an_empty_one() {
    let config = unit_config();
    let priority = |node, kind| config.for_node(node, kind).priority;
    assert_eq!(priority("zone-rear", "zone"), 20);
    assert_eq!(priority("zone-front", "zone"), 10);
    assert_eq!(priority("any", "central"), 100);
    let none = config.for_node("any", "unknown");
    assert_eq!((none.priority, none.node_type()), (0, "unknown"));
    assert_eq!(none.version, Some(Version::new(1, 4, 0)));
    assert_eq!(NodeConfig::read(&none.write()).unwrap(), none);
}

#[test]
fn resource_files() {
    let resources = read_resources(
        br#"[{"name":"camera","sharedCount":2,"groups":["video"],"devices":["/dev/video0:/dev/cam","/dev/fb0"],
        "mounts":[{"destination":"/run/cam","source":"/run/cam","type":"bind","options":["bind","ro"]}],
        "envs":["CAM_DEV=/dev/cam"],"hosts":[{"ip":"10.9.0.5","hostname":"camhub"}]}]"#,
    )
    .unwrap();
    let camera = &resources[0];
    assert_eq!((camera.shared_count, camera.mounts[0].kind.as_str()), (2, "bind"));
    let devices: Vec<_> = camera.device_mappings().map(|device| (device.host, device.container)).collect();
    assert_eq!(devices, [("/dev/video0", "/dev/cam"), ("/dev/fb0", "/dev/fb0")]);
    assert!(read_resources(b"{}").is_err());
    assert!(read_resources(br#"[{"groups":[]}]"#).unwrap_err().to_string().contains("[0].name"));
    assert!(read_resources(br#"[{"name":"a"},{"name":"a"}]"#).unwrap_err().to_string().contains("[1].name"));
}

/// Documents by digest; a stand-in for a store, with digests that only number them.
#[derive(Default)]
struct Documents(HashMap<Digest, Vec<u8>>);

impl Documents {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, std::io::Error> {
        self.0.get(digest).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn put(&mut self, n: u8, bytes: Vec<u8>) -> Descriptor {
        let size = bytes.len() as u64;
        self.0.insert(digest(n), bytes);
        Descriptor::new(media_type::MANIFEST, digest(n), size)
    }
}

#[test]
fn a_tree_lists_every_blob_once() {
    let blob = |n: u8, size| Descriptor::new("x", digest(n), size);
    let mut documents = Documents::default();
    let one = Manifest::new(blob(10, 100), Some(blob(11, 110)), vec![blob(12, 120), blob(13, 130)]);
    let two = Manifest::new(blob(20, 200), None, vec![blob(12, 120)]);
    let manifests = vec![documents.put(2, one.write()), documents.put(3, two.write())];
    let sizes: u64 = manifests.iter().map(|manifest| manifest.size).sum();
    let index = documents.put(1, Index::new(manifests).write());
    let tree = ImageTree::walk(&digest(1), |digest| documents.get(digest)).unwrap();
    let found: Vec<_> = tree.blobs.iter().map(|blob| (blob.digest.as_bytes()[0], blob.role)).collect();
    assert_eq!(
        found,
        [
            (1, BlobRole::Index),
            (2, BlobRole::Manifest),
            (10, BlobRole::Config),
            (11, BlobRole::ItemConfig),
            (12, BlobRole::Layer),
            (13, BlobRole::Layer),
            (3, BlobRole::Manifest),
            (20, BlobRole::Config),
        ]
    );
    assert_eq!(tree.total_size(), index.size + sizes + 100 + 110 + 120 + 130 + 200);
    assert_eq!((tree.manifests.len(), tree.digests().count()), (2, 8));
    assert_eq!(tree.manifests[1].manifest, two);
}

#[test]
fn a_broken_tree_is_refused_with_the_digest() {
    let blob = |n: u8, size| Descriptor::new("x", digest(n), size);
    let walk =
        |documents: &Documents| ImageTree::walk(&digest(1), |digest| documents.get(digest)).unwrap_err();
    let mut documents = Documents::default();
    assert!(matches!(walk(&documents), TreeError::Get { role: BlobRole::Index, .. }));
    documents.put(1, b"no json".to_vec());
    assert!(matches!(walk(&documents), TreeError::Format { .. }));
    documents.put(1, Index::new(vec![blob(2, 5)]).write());
    assert!(matches!(walk(&documents), TreeError::Get { role: BlobRole::Manifest, .. }));
    let manifest = Manifest::new(blob(10, 1), None, vec![blob(10, 2)]);
    let right = documents.put(2, manifest.write());
    assert!(matches!(walk(&documents), TreeError::Size { stated: 5, .. }));
    documents.put(1, Index::new(vec![right]).write());
    assert!(matches!(walk(&documents), TreeError::Size { found: 1, stated: 2, .. }));
    documents.0.insert(digest(1), vec![b' '; MAX_DOCUMENT + 1]);
    assert!(matches!(walk(&documents), TreeError::Format { .. }));
}

proptest! {
    #[test]
    fn connections_read_as_written(item in "[a-z0-9-]{1,36}", a in 1..=u16::MAX, b in 1..=u16::MAX, udp: bool) {
        let connection = AllowedConnection {
            item: item.parse().unwrap(),
            first_port: a.min(b),
            last_port: a.max(b),
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        };
        prop_assert_eq!(connection.to_string().parse::<AllowedConnection>().unwrap(), connection);
    }

    #[test]
    fn no_document_panics(text in "[\\[\\]{}\":,a-zA-Z0-9. -]{0,80}") {
        let _ = (Index::read(text.as_bytes()), Manifest::read(text.as_bytes()), ItemConfig::read(text.as_bytes()));
        let _ = (UnitConfig::read(text.as_bytes()), ImageConfig::read(text.as_bytes()), text.parse::<AllowedConnection>());
    }
}

#[test]
fn probes_are_read_with_their_defaults_and_written_back() {
    let text = br#"{"probes":{"startTimeout":"20s","readiness":{"exec":["/bin/ready","-q"],"period":"PT1S"},
        "liveness":{"HTTP":{"port":"8080","path":"/alive"},"timeout":"500ms","failureThreshold":5}}}"#;
    let item = ItemConfig::read(text).unwrap();
    let liveness = item.probes.liveness.clone().unwrap();
    assert_eq!(liveness.http, Some(HttpProbe { port: 8080, path: "/alive".into() }));
    assert_eq!((liveness.failure_threshold, liveness.success_threshold), (5, 1));
    assert_eq!(liveness.period.get().as_secs(), 10);
    assert_eq!(item.probes.readiness.as_ref().unwrap().exec, ["/bin/ready", "-q"]);
    assert_eq!(ItemConfig::read(&item.write()).unwrap(), item);
    let silent = ItemConfig::default();
    assert!(!String::from_utf8(silent.write()).unwrap().contains("probes"));
}

#[test]
fn a_probe_that_makes_no_sense_is_refused_with_its_key() {
    for (probe, key) in [
        ("{}", "probes.liveness"),
        (r#"{"exec":["a"],"tcp":{"port":1}}"#, "probes.liveness"),
        (r#"{"tcp":{"port":0}}"#, "tcp.port"),
        (r#"{"tcp":{"port":70000}}"#, "port"),
        (r#"{"http":{"port":80,"path":"x"}}"#, "http.path"),
        (r#"{"http":{"port":80,"path":"/a b"}}"#, "http.path"),
        (r#"{"tcp":{"port":1},"period":"1ms"}"#, "period"),
        (r#"{"tcp":{"port":1},"timeout":"2m"}"#, "timeout"),
        (r#"{"tcp":{"port":1},"failureThreshold":0}"#, "failureThreshold"),
    ] {
        let text = format!(r#"{{"probes":{{"liveness":{probe}}}}}"#);
        let error = ItemConfig::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(key), "{probe}: {error}");
    }
}
