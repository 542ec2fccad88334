// IAM-06, IAM-29
use super::*;
use crate::config::PartitionConfig;

fn config(dir: &Path) -> NodeInfoConfig {
    fs::write(dir.join("id"), "node-1\nsecond line\n").unwrap();
    fs::write(dir.join("mem"), "MemTotal: 16384 kB\nMemFree: 1 kB\n").unwrap();
    NodeInfoConfig {
        provisioning_state_path: dir.join("state"),
        cpu_info_path: dir.join("cpu"),
        mem_info_path: dir.join("mem"),
        node_id_path: dir.join("id"),
        ..NodeInfoConfig::default()
    }
}

// IAM 26.3
#[test]
fn describes_the_node_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.partitions = vec![
        PartitionConfig { name: "work".into(), types: vec!["services".into()], path: dir.path().into() },
        PartitionConfig { name: "gone".into(), types: vec![], path: dir.path().join("gone") },
    ];
    let node = CurrentNode::open(&config).unwrap();
    let info = node.watch().borrow().clone();
    assert_eq!(info.node_id, "node-1");
    assert_eq!(info.total_ram, 16_777_216);
    assert_eq!(info.cpus.len(), 1);
    assert_eq!((info.cpus[0].cores, info.cpus[0].threads), (1, 1));
    assert!(info.partitions[0].total_size > 0);
    assert_eq!(info.partitions[1].total_size, 0);
    assert_eq!(info.state, NodeState::Unprovisioned);
    assert_eq!(info.error, None);
}

// IAM 26.3
#[test]
fn missing_and_empty_sources_end_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = config(dir.path());
    bad.mem_info_path = dir.path().join("gone");
    assert_eq!(CurrentNode::open(&bad).unwrap_err().code(), aos_status::AosCode::NotFound);
    fs::write(dir.path().join("mem"), "").unwrap();
    bad.mem_info_path = dir.path().join("mem");
    assert_eq!(CurrentNode::open(&bad).unwrap_err().code(), aos_status::AosCode::Failed);
    let mut bad = config(dir.path());
    fs::write(&bad.node_id_path, "\n").unwrap();
    assert_eq!(CurrentNode::open(&bad).unwrap_err().code(), aos_status::AosCode::Failed);
    bad.node_id_path = dir.path().join("gone");
    assert_eq!(CurrentNode::open(&bad).unwrap_err().code(), aos_status::AosCode::NotFound);
}

// IAM 26.2
#[test]
fn state_file_is_the_bare_word_and_absent_when_unprovisioned() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let path = &config.provisioning_state_path;
    let node = CurrentNode::open(&config).unwrap();
    let mut watch = node.watch();
    watch.mark_unchanged();
    node.set_state(NodeState::Unprovisioned).unwrap();
    assert!(!watch.has_changed().unwrap(), "the same state does not notify");
    node.set_state(NodeState::Provisioned).unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(fs::read_to_string(path).unwrap(), "provisioned");
    assert_eq!(CurrentNode::open(&config).unwrap().state(), NodeState::Provisioned);
    node.set_state(NodeState::Paused).unwrap();
    assert_eq!(CurrentNode::open(&config).unwrap().state(), NodeState::Paused);
    node.set_state(NodeState::Unprovisioned).unwrap();
    assert!(!path.exists());
}

// IAM 26.2
#[test]
fn unreadable_state_is_an_error_state_and_the_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    for content in ["", "garbage", "Provisioned"] {
        fs::write(&config.provisioning_state_path, content).unwrap();
        let node = CurrentNode::open(&config).unwrap();
        let info = node.watch().borrow().clone();
        assert_eq!(info.state, NodeState::Error);
        assert!(info.error.is_some());
    }
}

// IAM 26.3
#[test]
fn processors_of_x86_are_grouped_by_socket() {
    let entry = |processor: u32, socket: u32, name: &str| {
        format!(
            "processor : {processor}\nphysical id : {socket}\nmodel name : {name}\ncpu family : 6\n\
             cpu cores : 2\nsiblings : 4\n\n"
        )
    };
    let text = entry(0, 0, "A") + &entry(1, 0, "ignored") + &entry(2, 1, "B") + &entry(3, 2, "C");
    let cpus = cpuinfo::parse(&text, "amd64");
    assert_eq!(cpus.len(), 3);
    assert_eq!(cpus[0].model_name, "A");
    assert_eq!((cpus[2].cores, cpus[2].threads), (2, 4));
    assert_eq!(cpus[0].architecture, "amd64", "the family is no architecture");
}

#[test]
fn processors_of_arm_are_counted() {
    let text =
        "processor : 0\nBogoMIPS : 48\n\nprocessor : 1\nBogoMIPS : 48\n\nprocessor : 2\n\nHardware : Board\n";
    let cpus = cpuinfo::parse(text, "arm64");
    assert_eq!(cpus.len(), 1);
    assert_eq!((cpus[0].cores, cpus[0].threads), (3, 3));
}

// IAM 26.3
#[test]
fn corrupt_processor_text_gives_one_default_processor() {
    for text in ["", "\n\n", "nonsense", "processor : 0\ncpu cores : many\n", "physical id : x\n"] {
        let cpus = cpuinfo::parse(text, "arm64");
        assert_eq!(cpus.len(), 1, "{text}");
        assert_eq!((cpus[0].cores, cpus[0].threads, cpus[0].architecture.as_str()), (1, 1, "arm64"));
    }
}

#[test]
fn configured_architecture_wins_and_machines_have_oci_names() {
    assert_eq!(cpuinfo::oci_architecture("x86_64"), "amd64");
    assert_eq!(cpuinfo::oci_architecture("aarch64"), "arm64");
    assert_eq!(cpuinfo::oci_architecture("riscv64"), "riscv64");
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.architecture = Some("arm64".into());
    config.architecture_variant = Some("v8".into());
    let node = CurrentNode::open(&config).unwrap();
    let info = node.watch().borrow().clone();
    assert_eq!(info.cpus[0].architecture, "arm64");
    assert_eq!(info.cpus[0].variant.as_deref(), Some("v8"));
}

/// Two sockets with two cores of two threads each, as a server tells them (shortened to what is read, and some
/// of what is not).
const X86_SERVER: &str = include_str!("samples/x86-two-sockets.txt");
const ARM64_BOARD: &str = include_str!("samples/arm64-board.txt");
const ARM32_BOARD: &str = include_str!("samples/arm32-board.txt");

// IAM 26.3, IAM-06
#[test]
fn real_machines_are_described() {
    let cpus = cpuinfo::parse(X86_SERVER, "amd64");
    let shape: Vec<_> = cpus.iter().map(|cpu| (cpu.model_name.as_str(), cpu.cores, cpu.threads)).collect();
    let xeon = "Intel(R) Xeon(R) Silver 4110 CPU @ 2.10GHz";
    assert_eq!(shape, [(xeon, 2, 4), (xeon, 2, 4)]);
    let [cpu] = &cpuinfo::parse(ARM64_BOARD, "arm64")[..] else { panic!("one socket") };
    assert_eq!((cpu.model_name.as_str(), cpu.cores, cpu.threads), ("Raspberry Pi 4 Model B Rev 1.4", 4, 4));
    assert_eq!(cpu.architecture, "arm64");
    let [cpu] = &cpuinfo::parse(ARM32_BOARD, "arm")[..] else { panic!("one socket") };
    assert_eq!((cpu.model_name.as_str(), cpu.cores), ("ARMv7 Processor rev 5 (v7l)", 2));
    let long = format!("processor : 0\nmodel name : {}\u{e4}\n", "x".repeat(63));
    assert_eq!(cpuinfo::parse(&long, "amd64")[0].model_name.len(), 63, "cut where a character ends");
}
