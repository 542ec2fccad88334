//! Writes the corpus that the mutations and the fuzzer start from, out of the samples of our own tests.
//!
//! `cargo run -p aos-fuzz-corpus --example write_corpus`; files that are there are left alone, so that what a
//! fuzzer found stays.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a tool of the tests")]

#[allow(clippy::wildcard_imports, reason = "as tests do")]
#[path = "../../../wire/cloud-protocol/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;

use aos_cloud_protocol::{Direction, Envelope, discovery, read};
use aos_cloud_websocket::{Frame, close_payload, encode};
use aos_fuzz_corpus::corpus::{content, folder};

/// Messages of each kind that are kept, the richest ones.
const EACH: usize = 2;

fn main() {
    let frames = messages();
    for (name, frame) in &frames {
        keep("messages", name, frame);
        let (family, data) = content(frame).unwrap();
        keep(family, name, &data);
    }
    discovery();
    websocket(&frames);
    session(&frames);
    documents();
    sealed();
    layers();
    node();
    recovery();
}

fn keep(corpus: &str, name: &str, bytes: &[u8]) {
    let folder = folder().join(corpus);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    if !path.exists() {
        fs::write(&path, bytes).unwrap();
    }
}

/// For each kind of message a rich and a poor sample.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut kinds: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in support::mutate::samples(2000) {
        let kind = read(&frame, Direction::Both).unwrap().body.message_type().as_str();
        kinds.entry(kind).or_default().push(frame);
    }
    let mut chosen = Vec::new();
    for (kind, mut frames) in kinds {
        frames.sort_by_key(Vec::len);
        frames.retain(|frame| frame.len() < 12_000);
        let step = (frames.len() - 1).max(1);
        for (number, frame) in frames.into_iter().step_by(step).take(EACH).enumerate() {
            chosen.push((format!("{kind}-{number}.json"), frame));
        }
    }
    chosen
}

fn discovery() {
    let request = discovery::Request::new("unit-1".parse().unwrap());
    keep("discovery_request", "ours.json", &request.to_json());
    keep("discovery_request", "least.json", br#"{"systemId":"u"}"#);
    let response = |code: &str, urls: &str| {
        format!(
            r#"{{"version":7,"systemId":"unit-1","nextRequestDelay":2000,"connectionInfo":[{urls}],"authToken":"t","errorCode":{code}}}"#
        )
    };
    for (name, code, urls) in [
        ("connect", "0", r#""wss://one:9001/ws/v7/","wss://two/ws/v7/""#),
        ("later", "\"RepeatLater\"", ""),
        ("redirect", "\"1\"", r#""https://other:9000/sd/v7/""#),
        ("error", "3", ""),
    ] {
        keep("discovery_response", &format!("{name}.json"), response(code, urls).as_bytes());
    }
}

fn websocket(frames: &[(String, Vec<u8>)]) {
    let mask = Some([1, 2, 3, 4]);
    let ack = &frames.iter().find(|(name, _)| name.starts_with("ack")).unwrap().1;
    // The first byte: who reads, and the length of reads.
    let with = |first: u8, pieces: &[Vec<u8>]| [&[first][..], &pieces.concat()].concat();
    let close = close_payload(1000, "bye");
    let all = |mask| {
        [
            encode(Frame::Binary(ack), mask),
            encode(Frame::Ping(b"aos"), mask),
            encode(Frame::Pong(b""), mask),
            encode(Frame::Binary(&[7; 300]), mask),
            encode(Frame::Close(&close), mask),
        ]
    };
    keep("websocket", "server", &with(6, &all(mask)));
    keep("websocket", "client", &with(7, &all(None)));
    let mut text = encode(Frame::Binary("grüß".as_bytes()), None);
    text[0] = 0x81;
    keep("websocket", "text", &with(1, &[text]));
    let mut pieces = [
        encode(Frame::Binary(b"one "), None),
        encode(Frame::Ping(b"x"), None),
        encode(Frame::Binary(b"two"), None),
    ];
    pieces[0][0] = 0x02;
    pieces[2][0] = 0x80;
    keep("websocket", "pieces", &with(3, &pieces));
    keep("websocket", "long", &with(1, &[encode(Frame::Binary(&vec![1; 5000]), None)]));
    keep("websocket", "promise", &[1, 0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
}

fn session(frames: &[(String, Vec<u8>)]) {
    let receive = |frame: &[u8]| [&[3, 0][..], frame, b"\n"].concat();
    let ours = |frame: &Vec<u8>| {
        let mut envelope: Envelope = read(frame, Direction::Both).unwrap();
        envelope.header.system_id = "unit-1".parse().unwrap();
        aos_cloud_protocol::write(&envelope).unwrap()
    };
    for (end, wanted) in
        [(0, ["updateState-0.json", "blobUrls-0.json"]), (1, ["newState-0.json", "stateRequest-0.json"])]
    {
        let chosen: Vec<Vec<u8>> = frames
            .iter()
            .filter(|(name, _)| wanted.contains(&name.as_str()))
            .map(|(_, frame)| ours(frame))
            .collect();
        let first = receive(&chosen[0]);
        let second = receive(&chosen[1]);
        // Connect, send, time, receive, accept, repeat, refuse, acknowledge, cut, connect.
        let script = [
            &[end, 1, 0, 5, 3, 5, 4, 11, 200][..],
            &first,
            &[7, 0],
            &first,
            &second,
            &[8, 9],
            &[10, 1, 11, 255, 9, 0],
            &[2, 0, 5, 129, 0, 0, 11, 255, 11, 255, 4, 0, 6, 1],
        ];
        keep("session", &format!("exchange-{end}"), &script.concat());
        // Nobody answers.
        let silent: Vec<u8> = (0..40).flat_map(|number| [5, number * 6, 11, 255, 4, 0]).collect();
        keep("session", &format!("silent-{end}"), &[&[end, 0, 0][..], &silent].concat());
    }
}

/// Layers: scripts of entries, honest and hostile, and streams as tools write them.
fn layers() {
    for (name, script) in [
        (
            "honest",
            "5\tbin\n0\tbin/a\t\ttext\n2\tbin/b\ta\n1\thard\tbin/a\n6\tpipe\n0\td/.wh.gone\n0\td/.wh..wh..opq",
        ),
        ("climbing", "0\t../outside/new\t\tx\n0\ta/../../outside/file\t\tx"),
        ("absolute", "0\t@OUT/new\t\tx\n5\t@OUT/dir"),
        ("through-a-link", "2\tdoor\t@OUT\n0\tdoor/new\t\tx\n0\tdoor/.wh.file\n0\tdoor/.wh..wh..opq"),
        ("relative-link", "2\tdoor\t../outside\n0\tdoor/file\t\tx"),
        ("replaced-by-a-link", "5\td\n0\td/a\t\tx\n5\te\n2\te\t@OUT\n0\te/file\t\tx"),
        (
            "hard-link-outside",
            "1\tevil\t@OUT/file\n1\tevil2\t../outside/file\n2\tl\t@OUT/file\n1\tevil3\tl\n0\tevil3\t\tx",
        ),
        ("devices", "3\tnull\n4\tdisk\n7\tcontiguous\t\tx\nS\tsparse\t\tx\nV\tvolume"),
        ("circles", "2\ta\tb\n2\tb\ta\n2\ts\ts\n0\ta/x\t\tx\n1\ta\ta"),
        ("duplicates", "0\ta\t\t1\n5\ta\n0\ta\t\t2\n0\t.wh.a\n5\ta\n2\ta\tb\n0\ta/b\t\tx"),
        ("whiteouts", "0\t.wh.a\n5\ta\n0\ta/.wh..wh..opq\n0\t.wh..\n0\t.wh...\n0\t.wh.\n0\t.wh.x/y"),
        (
            "headers",
            "L\t././@LongLink\t\tlonger-name\n0\tshort\t\tx\nx\tpax\t\t16 path=../evil\n\n0\ta\t\tx\ng\tglobal\t\t10 a=bcd\n",
        ),
    ] {
        keep("layer", name, format!("S{script}").as_bytes());
        if matches!(name, "devices" | "whiteouts") {
            keep("layer", &format!("{name}-of-an-overlay"), format!("O{script}").as_bytes());
        }
    }
    let deep = format!("S0\t{}x\t\ty", "d/".repeat(200));
    keep("layer", "deep", deep.as_bytes());
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in [("dir/", tar::EntryType::Directory), ("dir/file", tar::EntryType::Regular)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(if kind.is_file() { 4 } else { 0 });
        builder.append_data(&mut header, name, &b"text"[..if kind.is_file() { 4 } else { 0 }]).unwrap();
    }
    let stream = builder.into_inner().unwrap();
    keep("layer", "tar", &[b"T", stream.as_slice()].concat());
    let mut gzip = flate2::write::GzEncoder::new(b"G".to_vec(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &stream).unwrap();
    keep("layer", "gzip", &gzip.finish().unwrap());
    keep("layer", "zstd", &[b"Z".to_vec(), zstd::encode_all(stream.as_slice(), 3).unwrap()].concat());
}

fn documents() {
    let digest = "sha256:".to_owned() + &"ab".repeat(32);
    let descriptor = |media: &str| format!(r#"{{"mediaType":"{media}","digest":"{digest}","size":12}}"#);
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    for (name, text) in [
        ("index.json", format!(r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#, descriptor(manifest_type))),
        ("manifest.json", format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest_type}","config":{},"aosItemConfig":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json"),
            descriptor("application/vnd.aos.item.config.v1+json"),
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip"),
        )),
        ("image.json", r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/a"],"Cmd":["b"],"Env":["A=b"],"WorkingDir":"/","ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[]}}"#.to_owned()),
        ("probes.json", r#"{"probes":{"startTimeout":"10s","readiness":{"http":{"port":8080,"path":"/ready"},"initialDelay":"1s","period":"100ms","timeout":"2s","successThreshold":2},"liveness":{"exec":["/bin/true"],"period":"PT5S","failureThreshold":3}}}"#.to_owned()),
        ("probe-tcp.json", r#"{"probes":{"liveness":{"tcp":{"port":1}}},"sysctl":{"net.ipv4.ip_forward":"1"}}"#.to_owned()),
        ("item.json", r#"{"created":"2026-01-01T00:00:00Z","author":"a","balancingPolicy":"enabled","runtimes":["crun"],"hostname":"h","runParameters":{"startInterval":"PT10S","startBurst":3,"restartInterval":"PT1S"},"quotas":{"cpuDMIPSLimit":100,"ramLimit":1048576,"storageLimit":10,"stateLimit":10,"uploadSpeed":1,"downloadLimit":9},"requestedResources":{"cpu":10,"ram":20,"storage":5,"state":5},"allowedConnections":["web/80-90/tcp"],"alertRules":{"ram":{"minTimeout":"PT10S","minThreshold":10.0,"maxThreshold":80.0}},"resources":["camera"],"permissions":{"vis":{"*":"rw"}}}"#.to_owned()),
        ("unit.json", r#"{"formatVersion":"1","version":"1.0.1","nodes":[{"node":{"codename":"main"},"nodeGroupSubject":{"codename":"g"},"alertRules":{"cpu":{"minTimeout":"PT10S","minThreshold":10.0,"maxThreshold":80.0}},"resourceRatios":{"cpu":50.0,"ram":40.0},"labels":["a"],"priority":1}]}"#.to_owned()),
        ("resources.json", r#"[{"name":"camera","sharedCount":2,"groups":["video"],"devices":["/dev/video0:/dev/cam"],"mounts":[{"source":"/a","destination":"/b","type":"bind","options":["ro"]}],"hosts":[{"ip":"10.0.0.1","hostname":"x"}],"env":["A=b"]}]"#.to_owned()),
        ("connection", "web/80-90/tcp".to_owned()),
    ] {
        keep("item_format", name, text.as_bytes());
    }
}

/// Certificates and envelopes sealed for them. The keys are thrown away.
fn sealed() {
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let root_key = rcgen::KeyPair::generate().unwrap();
    let parameters = |name: &str| {
        let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
        parameters
    };
    let mut root = parameters("root");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
    let issuer = rcgen::Issuer::new(root, &root_key);
    let leaf = parameters("leaf").signed_by(&rsa, &issuer).unwrap().der().to_vec();
    for (name, content) in [("short", &b"{}"[..]), ("block", &[b' '; 64]), ("empty", b"")] {
        let envelope = aos_blob_crypto::cms::seal(content, &[&leaf]).unwrap();
        keep("cms", name, &envelope);
    }
    let both = [&root_der[..], &leaf].concat();
    // The first byte cuts where the root ends, as exactly as 1/256 can.
    let cut = (0..=255_u8).find(|cut| both.len() * usize::from(*cut) / 256 >= root_der.len()).unwrap();
    let extra = (0..256).find(|extra| (both.len() + extra) * usize::from(cut) / 256 == root_der.len());
    let padded = [&[cut][..], &both, &vec![0; extra.unwrap_or(0)]].concat();
    keep("certificate_chain", "chain", &padded);
    keep("certificate_chain", "root", &[&[255][..], &root_der].concat());
}

/// What a Service Manager reads of its node.
fn node() {
    let way = |kind: u16, ends: [[u8; 4]; 2], port: u16| {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let addresses = [attribute(1, &ends[0]), attribute(2, &ends[1])].concat();
        let protocol =
            [attribute(1, &[6]), attribute(2, &[0x80, 0]), attribute(3, &port.to_be_bytes())].concat();
        attribute(kind | 0x8000, &[attribute(0x8001, &addresses), attribute(0x8002, &protocol)].concat())
    };
    let connection = |last: u8| {
        let (inside, outside, here) = ([172, 17, 0, last], [203, 0, 113, 2], [203, 0, 113, 1]);
        let mut message = vec![0; 16];
        message[4..6].copy_from_slice(&0x0100_u16.to_ne_bytes());
        message.extend([2, 0, 0, 0]);
        message.extend(way(1, [inside, outside], 443));
        message.extend(way(2, [outside, here], 40000));
        message.extend([8, 0, 12, 0, 1, 2, 3, last]);
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    };
    keep("netlink", "one", &connection(2));
    keep("netlink", "two", &[connection(2), connection(3)].concat());
    keep("netlink", "cut", &connection(2)[..60]);
    for (name, line) in [
        (
            "entry",
            r#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1772609105000000","MESSAGE":"text","PRIORITY":"3","_SYSTEMD_UNIT":"a.service","_SYSTEMD_CGROUP":"/system.slice/a.service","SYSLOG_IDENTIFIER":"a"}"#,
        ),
        (
            "bytes",
            r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":[27,91,51,255],"PRIORITY":["3","4"],"UNIT":"b.service"}"#,
        ),
        ("own-error", "04.03.26 07:25:05.123 [ERR] (smclient) no way out: gone"),
        ("own", "04.03.26 07:25:05.123 [INF] (x) y"),
    ] {
        keep("journal", name, line.as_bytes());
    }
    for (name, answer) in [
        ("good", "HTTP/1.1 200 OK\r\nX: y\r\n\r\n"),
        ("bad", "HTTP/1.0 503 No\r\n\r\n"),
        ("other", "SSH-2.0-x 200\r\n"),
    ] {
        keep("probe_answer", name, answer.as_bytes());
    }
}

/// Both ways of the recovery of certificates.
fn recovery() {
    for (name, text) in [
        ("ask", r#"{"systemId":"unit-1"}"#),
        ("challenge", r#"{"challenge":"00ff"}"#),
        (
            "signed",
            r#"{"systemId":"unit-1","challenge":"00ff","signature":"aa","requests":[{"type":"online","node":"main","csr":"-----BEGIN CERTIFICATE REQUEST-----"},{"type":"iam","node":"rear","csr":"x","provedBy":"0a"}]}"#,
        ),
        (
            "token",
            r#"{"systemId":"unit-1","challenge":"00ff","token":"t","requests":[{"type":"online","node":"main","csr":""}]}"#,
        ),
        (
            "answer",
            r#"{"certificates":[{"type":"online","node":"main","certificateChain":"-----BEGIN"}],"refused":[{"type":"iam","node":"rear","reason":"no"}],"due":[{"type":"sm","node":"main"}]}"#,
        ),
        ("refusal", r#"{"message":"no"}"#),
    ] {
        keep("recovery", name, text.as_bytes());
    }
}
