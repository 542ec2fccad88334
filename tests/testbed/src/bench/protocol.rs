//! Reading messages: a full `unitStatus` of 50 instances, read with every tolerance and bound, against the same
//! bytes decoded by serde_json into plain structures that know no other peer.

mod plain;

use std::hint::black_box;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    AosIdentity, ArchInfo, Body, ConfigState, CpuInfo, Direction, Envelope, IdentityType, InstanceInfo,
    InstanceState, InstancesInfo, ItemState, ItemStatus, NodeInfo, NodeState, OsInfo, PartitionInfo,
    ResourceInfo, RuntimeInfo, StateChecksum, UnitConfigStatus, UnitStatus, read, write,
};
use jiff::Timestamp;

use crate::bench::Rows;
use crate::{Error, Result};

/// Rounds, of which the fastest counts for each side: what disturbs a round only makes it slower.
const ROUNDS: usize = 40;
/// Frames read in one round by each side.
const FRAMES: u32 = 200;

/// Runs the group.
pub fn run(rows: &mut Rows) -> Result<()> {
    let frame =
        status_frame().ok_or_else(|| Error::Unexpected("cannot write the status to be read".to_owned()))?;
    let ours = || read(black_box(&frame), Direction::UnitToCloud).is_ok();
    let bare = || serde_json::from_slice::<plain::Frame>(black_box(&frame)).is_ok();
    if !ours() || !bare() {
        return Err(Error::Unexpected("one of the readers refuses the status".to_owned()));
    }
    let (mut fastest, mut fastest_bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        fastest = fastest.min(round(ours));
        fastest_bare = fastest_bare.min(round(bare));
    }
    let note = format!("unitStatus of 50 instances, {} bytes", frame.len());
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(FRAMES);
    rows.add_real("protocol.decode.us", "us", &note, micros(fastest));
    rows.add_real("protocol.decode.bare_us", "us", &note, micros(fastest_bare));
    let ratio = fastest_bare.as_secs_f64() / fastest.as_secs_f64();
    rows.add_ratio("protocol.decode.vs_bare", "speed of read() in parts of plain serde_json", ratio);
    Ok(())
}

fn round(mut reader: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    for _ in 0..FRAMES {
        black_box(reader());
    }
    start.elapsed()
}

/// What a Unit of two nodes with 25 services of two instances each sends after connecting.
fn status_frame() -> Option<Vec<u8>> {
    let service = |number: u32| format!("3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a{number:04x}");
    let subject = "c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714";
    let nodes = ["zone-main", "zone-rear"];
    let items = (0..25).map(|number| ItemStatus {
        item: AosIdentity::by_id(service(number)).with_type(IdentityType::Service),
        version: "2.1.0".to_owned(),
        state: ItemState::Installed,
        error_info: None,
    });
    let instance = |number: u64, node: &str| InstanceInfo {
        node: AosIdentity::by_codename(node),
        runtime: AosIdentity::by_codename(format!("crun-{node}")),
        instance: number,
        state_checksum: Some(StateChecksum::from_bytes(&[0x5a; 28])),
        state: InstanceState::Active,
        error_info: None,
    };
    let instances = (0..25).map(|number| InstancesInfo {
        item: AosIdentity::by_id(service(number)),
        subject: AosIdentity::by_id(subject),
        version: "2.1.0".to_owned(),
        instances: (0..).zip(nodes).map(|(number, node)| instance(number, node)).collect(),
    });
    let status = UnitStatus {
        is_delta_info: false,
        unit_config: Some(vec![UnitConfigStatus {
            version: Some("1.4.0".to_owned()),
            state: ConfigState::Installed,
            error_info: None,
        }]),
        nodes: Some(nodes.map(node).to_vec()),
        items: Some(items.collect()),
        instances: Some(instances.collect()),
        subjects: Some(vec![AosIdentity::by_codename("driver-profile-a")]),
    };
    let now = Timestamp::from_second(1_772_611_200).ok()?;
    write(&Envelope::new("veh-7f3a91c2".parse().ok()?, now, Body::UnitStatus(status))).ok()
}

fn node(name: &str) -> NodeInfo {
    let arch = || ArchInfo { architecture: "arm64".to_owned(), variant: Some("v8".to_owned()) };
    let os = || OsInfo {
        os: "linux".to_owned(),
        version: Some("6.6.21".to_owned()),
        features: Some(vec!["cgroupv2".to_owned()]),
    };
    NodeInfo {
        identity: AosIdentity::by_codename(name).with_title("Zone controller"),
        node_group_subject: AosIdentity::by_codename("zonal-gateway"),
        max_dmips: 42_000,
        physical_ram: Some(4_294_967_296),
        total_ram: 6_442_450_944,
        os_info: os(),
        cpus: Some(vec![CpuInfo {
            model_name: Some("Cortex-A76".to_owned()),
            total_num_cores: Some(4),
            total_num_threads: Some(4),
            arch_info: arch(),
            max_dmips: Some(42_000),
        }]),
        attrs: Some(
            [("AosComponents", "cm,iam,sm"), ("MainNode", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        ),
        partitions: Some(vec![PartitionInfo {
            name: "storages".to_owned(),
            types: vec!["storages".to_owned(), "states".to_owned()],
            path: Some("/var/aos".to_owned()),
            total_size: 8_589_934_592,
        }]),
        runtimes: Some(vec![RuntimeInfo {
            identity: AosIdentity::by_codename(format!("crun-{name}")),
            runtime_type: "crun".to_owned(),
            arch_info: arch(),
            os_info: os(),
            max_dmips: Some(42_000),
            allowed_dmips: Some(30_000),
            total_ram: Some(4_294_967_296),
            allowed_ram: Some(2_147_483_648),
            max_instances: 32,
        }]),
        resources: Some(vec![ResourceInfo { name: "camera-front".to_owned(), shared_count: 1 }]),
        is_connected: true,
        state: NodeState::Provisioned,
        error_info: None,
    }
}
