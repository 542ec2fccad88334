//! Traffic with public peers: counted for each day, bounded, kept.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5 as wire;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use serde_json::{Value, json};

use super::bounds::transfer;
use super::{OPEN, OUTSIDE, PATIENCE, Space};
use super::{end, image, launch, lay_uplink, run, start};
use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;

fn counted(direction: &str, id: &str) -> u64 {
    let text = run(&format!("nft list counter inet aos-traffic {direction}_{id}"));
    let (_, bytes) = text.split_once("bytes ").unwrap();
    bytes.split_whitespace().next().unwrap().parse().unwrap()
}

/// No bytes for this long are no bytes any more.
const SILENCE: Duration = Duration::from_secs(2);

/// Lets a client inside meet a server outside; answers what each says of the connection, `None` where there was none.
fn meet<T: Send + 'static>(
    space: &Space,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
    ask: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (Option<T>, Option<T>) {
    let bounded = |stream: TcpStream| {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.set_write_timeout(Some(SILENCE)).unwrap();
        // What did not get through is not tried again behind our back.
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
        stream
    };
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = Space::outside().run(move || {
        let listener = TcpListener::bind("0.0.0.0:6001").unwrap();
        ready.send(listener.try_clone().unwrap()).unwrap();
        let (stream, _) = listener.accept().ok()?;
        Some(serve(bounded(stream)))
    });
    let listener: TcpListener = is_ready.recv().unwrap();
    let client = space.run(move || {
        let to: SocketAddr = format!("{OUTSIDE}:6001").parse().unwrap();
        let stream = TcpStream::connect_timeout(&to, SILENCE).ok()?;
        Some(ask(bounded(stream)))
    });
    let asked = end(client);
    // Nobody may have come: let the server end.
    shutdown(listener.as_raw_fd(), Shutdown::Both).unwrap();
    (end(server), asked)
}

fn take(mut stream: TcpStream) -> usize {
    let mut total = 0;
    let mut buffer = [0; 4096];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 {
            break;
        }
        total += length;
    }
    total
}

fn give(bytes: usize) -> impl FnOnce(TcpStream) -> usize {
    move |mut stream| {
        let _ = stream.write_all(&vec![7; bytes]);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Until the other side has taken them, or nothing comes any more.
        let _ = stream.read(&mut [0; 1]);
        bytes
    }
}

/// Reads `bytes` from a server outside; false when they do not come.
fn download(space: &Space, bytes: usize) -> bool {
    let (_, got) = meet(space, give(bytes), take);
    got == Some(bytes)
}

/// Sends `bytes` to a server outside; false when they do not arrive.
fn upload(space: &Space, bytes: usize) -> bool {
    let (got, _) = meet(space, take, give(bytes));
    got == Some(bytes)
}

/// An instance downloads so many bytes from outside.
pub fn public_download(id: &str, bytes: usize) {
    assert!(download(&Space::of(id), bytes));
}

fn set_day_back(sm: &Sm) {
    let database = rusqlite::Connection::open(sm.folder.path().join("work/sm.db")).unwrap();
    let text: Vec<u8> =
        database.query_row("SELECT value FROM facts WHERE name = 'traffic'", [], |row| row.get(0)).unwrap();
    let mut ledger: Value = serde_json::from_slice(&text).unwrap();
    ledger["day"] = json!(ledger["day"].as_u64().unwrap() - 1);
    let text = serde_json::to_vec(&ledger).unwrap();
    database.execute("UPDATE facts SET value = ?1 WHERE name = 'traffic'", [text]).unwrap();
}

// SM-06: private peers are not counted, the value survives restarts, the limit drops, a new day starts at zero and
// lets through again.
// REL-28
pub async fn public_traffic_is_counted_bounded_and_kept() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let bounded = image(&sm, &[], &json!({"downloadLimit": 400_000}));
    let free = image(&sm, &[], &json!({}));
    let (space, ip) = start(&sm, 0, &bounded).await;
    let (peer, peer_ip) = start(&sm, 1, &free).await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    transfer(&peer, &space, &ip, 300_000);
    transfer(&space, &peer, &peer_ip, 300_000);
    assert_eq!((counted("in", &id), counted("out", &id)), (0, 0), "private peers do not count");
    assert!(download(&space, 250_000));
    let first = counted("in", &id);
    assert!((250_000..330_000).contains(&first), "{first}");
    assert!((1..100_000).contains(&counted("out", &id)));

    // The value survives: a death, then a stop of the instance, then the loss of the kernel's tables.
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(counted("in", &id), first);
    sm.cm.update(vec![], vec![1]).await;
    wait_for("the end of the other", || (sm.cm.count("ReleaseInstanceNetwork") == 1).then_some(())).await;
    // What was stored counts after a loss of everything in the kernel, as by a power cut.
    sm.kill();
    run("nft flush ruleset");
    launch(&mut sm).await;
    let is_there = || run("nft list counters").contains(&format!("in_{id}")).then_some(());
    wait_for("the counters", is_there).await;
    assert_eq!(counted("in", &id), first);
    let changed = wire::InstanceInfo {
        owner_id: "one".into(),
        env_vars: vec![wire::EnvVarInfo { name: "A".into(), value: "B".into() }],
        ..wish(0, "1.0.0", &bounded, &sm.runtime)
    };
    sm.cm.update(vec![changed], vec![]).await;
    let starts = || async { sm.instance(0).await["starts"].as_u64() == Some(2) };
    let deadline = Instant::now() + PATIENCE * 2;
    while !(starts().await && sm.instance(0).await["state"] == "active") {
        assert!(Instant::now() < deadline, "no second start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(counted("in", &id), first);

    // Too much is stopped while it happens, in this direction only.
    assert!(!download(&space, 300_000));
    let full = counted("in", &id);
    // Packets are dropped whole, and the kernel makes them up to 64 KiB long.
    assert!((330_000..=400_000).contains(&full), "{full}");
    assert!(!download(&space, 10));
    assert!(transfer(&Space::here(), &space, &ip, 1000) < PATIENCE, "private peers go on");
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert!(!download(&space, 10));

    // Another day.
    sm.kill();
    set_day_back(&sm);
    launch(&mut sm).await;
    let reset = || (counted("in", &id) < 1000).then_some(());
    wait_for("the new day", reset).await;
    assert!(download(&space, 100_000));
}

// SM-06: the other direction alone, likewise; peers in every private range are left out.
// REL-28
pub async fn public_uploads_are_bounded_by_themselves() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let bounded = image(&sm, &[], &json!({"uploadLimit": 400_000}));
    let (space, ip) = start(&sm, 0, &bounded).await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    assert!(upload(&space, 250_000));
    let first = counted("out", &id);
    assert!((250_000..330_000).contains(&first), "{first}");
    assert!((1..100_000).contains(&counted("in", &id)));
    let before = (counted("out", &id), counted("in", &id));
    for private in ["10.99.0.2", "172.16.5.2", "192.168.77.2", "169.254.7.2"] {
        run(&format!("ip -n outside addr add {private}/32 dev lo; ip route add {private}/32 via {OUTSIDE}"));
        assert!(!space.reaches(private, OPEN).is_empty());
    }
    assert_eq!((counted("out", &id), counted("in", &id)), before, "private peers are counted");
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(counted("out", &id), first);

    assert!(!upload(&space, 300_000));
    let full = counted("out", &id);
    assert!((330_000..=400_000).contains(&full), "{full}");
    // Whoever cannot ask gets no answer, but what private peers send and get goes on.
    assert!(!upload(&space, 10));
    assert!(transfer(&Space::here(), &space, &ip, 1000) < PATIENCE);
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert!(!upload(&space, 10), "a restart is no new day");

    sm.kill();
    set_day_back(&sm);
    launch(&mut sm).await;
    wait_for("the new day", || (counted("out", &id) < 1000).then_some(())).await;
    assert!(upload(&space, 100_000));
}
