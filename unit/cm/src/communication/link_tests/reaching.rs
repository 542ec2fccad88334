//! Discovery and the addresses it names.

use serde_json::json;

use super::*;

fn rig(discovery: &Discovery) -> Rig {
    Rig::new(Setup { discovery: discovery.url(), ..Setup::default() })
}

/// An address where nobody listens.
async fn dead() -> String {
    Sockets::new().await.url()
}

// CM-20, PRO-04, PRO-06, PRO-07, PRO-11, PRO-30, PRO-32: the question, the token, the first message.
#[tokio::test]
async fn what_is_asked_and_sent() {
    let (discovery, sockets) = cloud().await;
    let mut rig = rig(&discovery);
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let (_, question) = discovery.question(0).await;
    assert!(question.starts_with("POST /sd/v7/ HTTP/1.1\r\n"), "{question}");
    let lower = question.to_lowercase();
    for header in ["accept: application/json", "content-type: application/json", "connection: close"] {
        assert!(lower.contains(header), "{header} in {question}");
    }
    let (_, body) = question.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, json!({"version": 7, "systemId": "unit-1", "supportedProtocols": ["wss"]}));
    assert!(peer.headers.starts_with("/ws/v7/ "), "{}", peer.headers);
    assert!(peer.headers.contains(r#""authorization": "bearer one""#), "{}", peer.headers);
    rig.stop().await;
    assert!(peer.next().await.is_none(), "a polite end");
}

// D8, DIS-08, PRO-10, PRO-14: each address once, in their order, with pauses that grow; then discovery again.
#[tokio::test]
async fn addresses_are_tried_in_turn_and_then_discovery() {
    let (refusing, good) = (Sockets::new().await, Sockets::new().await);
    let addresses = [dead().await, refusing.url()];
    let discovery = Discovery::new([answer(&addresses, json!({})), answer(&[good.url()], json!({}))]).await;
    let mut rig = rig(&discovery);
    let started = discovery.question(0).await.0;
    refusing.refuse(503).await;
    let first = started.elapsed();
    assert!((0.75..1.9).contains(&first.as_secs_f64()), "{first:?}");
    let second = discovery.question(1).await.0 - (started + first);
    assert!((1.55..2.9).contains(&second.as_secs_f64()), "{second:?}");
    let (mut peer, ()) = tokio::join!(good.accept(), rig.greet());
    peer.greeted().await;
    assert_eq!(discovery.asked.lock().unwrap().len(), 2);
}

// D8: 401 throws the whole answer away: the next attempt asks again, and has another token.
#[tokio::test]
async fn an_unauthorised_upgrade_asks_anew() {
    let (first, second) = (Sockets::new().await, Sockets::new().await);
    let both = [first.url(), second.url()];
    let discovery =
        Discovery::new([answer(&both, json!({})), answer(&[second.url()], json!({"authToken": "two"}))])
            .await;
    let mut rig = rig(&discovery);
    first.refuse(401).await;
    let (peer, ()) = tokio::join!(second.accept(), rig.greet());
    assert!(peer.headers.contains(r#""authorization": "bearer two""#), "{}", peer.headers);
    assert_eq!(discovery.asked.lock().unwrap().len(), 2);
}

// PRO-12: other discovery servers are asked at once; a circle of them ends the attempt.
#[tokio::test]
async fn redirections_are_followed() {
    let (last, sockets) = cloud().await;
    let discovery =
        Discovery::new([answer(&["ftp://x".to_owned(), last.url()], json!({"errorCode": "redirect"}))]).await;
    let started = Instant::now();
    let mut one = rig(&discovery);
    let (_, ()) = tokio::join!(sockets.accept(), one.greet());
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
    one.stop().await;

    let circle = Discovery::new([answer(&[], json!({}))]).await;
    *circle.answers.lock().unwrap() = [answer(&[circle.url()], json!({"errorCode": 1}))].into();
    let rig = rig(&circle);
    let last = circle.question(3).await.0;
    let next = circle.question(4).await.0;
    assert!(next - last > Duration::from_millis(700), "a pause after four questions");
    rig.stop().await;
}

#[tokio::test]
async fn addresses_of_web_sockets_in_a_redirection_are_used() {
    let sockets = Sockets::new().await;
    let discovery = Discovery::new([answer(&[sockets.url()], json!({"errorCode": "1"}))]).await;
    let mut rig = rig(&discovery);
    let _ = tokio::join!(sockets.accept(), rig.greet());
}

// PRO-12
#[tokio::test]
async fn the_cloud_may_ask_to_come_later() {
    let sockets = Sockets::new().await;
    let later = answer(&[sockets.url()], json!({"errorCode": "RepeatLater", "nextRequestDelay": 2200}));
    let discovery = Discovery::new([later, answer(&[sockets.url()], json!({}))]).await;
    let mut rig = rig(&discovery);
    let pause = discovery.question(1).await.0 - discovery.question(0).await.0;
    assert!((2.15..3.2).contains(&pause.as_secs_f64()), "{pause:?}");
    let _ = tokio::join!(sockets.accept(), rig.greet());
}

// D4, PRO-12: the code as number, as text, as name in any letter case, and none.
#[tokio::test]
async fn a_good_code_in_any_form_connects() {
    for code in [json!(0), json!("0"), json!("NoError"), json!("NOERROR"), json!(0.0), json!(null)] {
        let sockets = Sockets::new().await;
        let discovery = Discovery::new([answer(&[sockets.url()], json!({"errorCode": code}))]).await;
        let mut rig = rig(&discovery);
        let _ = tokio::join!(sockets.accept(), rig.greet());
        rig.stop().await;
    }
}

// D18, PRO-08, PRO-11: keys in any letter case, null as nothing, numbers as text, unknown keys.
#[tokio::test]
async fn an_odd_answer_is_read() {
    let sockets = Sockets::new().await;
    let body = json!({
        "ConnectionINFO": [sockets.url()], "AUTHTOKEN": null, "NextRequestDelay": "1000", "version": "7",
        "systemId": null, "unheardOf": {"a": 1},
    });
    let discovery = Discovery::new([(200, body.to_string())]).await;
    let mut rig = rig(&discovery);
    let (peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    assert!(!peer.headers.contains("authorization"), "{}", peer.headers);
}

// D5, PRO-12: whatever cannot be used is a failure: a pause, then the next question. Nobody connects.
#[tokio::test]
async fn useless_answers_back_off() {
    let sockets = Sockets::new().await;
    let address = [sockets.url()];
    let all = [
        answer(&address, json!({"errorCode": 3})),
        answer(&address, json!({"errorCode": "Error"})),
        answer(&address, json!({"errorCode": "unheard of"})),
        answer(&[], json!({})),
        answer(&["ftp://x/".to_owned()], json!({})),
        (201, answer(&address, json!({})).1),
        (204, String::new()),
        (302, answer(&address, json!({})).1),
        (500, "sorry".to_owned()),
        (200, "no json }".to_owned()),
        (200, " ".repeat(70_000)),
    ];
    let attempts = all.map(|bad| {
        let address = &address;
        async move {
            let discovery = Discovery::new([bad.clone(), answer(address, json!({}))]).await;
            let rig = rig(&discovery);
            let pause = discovery.question(1).await.0 - discovery.question(0).await.0;
            assert!((0.7..2.0).contains(&pause.as_secs_f64()), "{bad:?}: {pause:?}");
            drop(rig);
        }
    });
    futures_util::future::join_all(attempts).await;
}

// CM-22, D6, PRO-09
#[tokio::test]
async fn the_first_pause_is_what_the_cloud_wishes() {
    let addresses = [dead().await, dead().await];
    let discovery = Discovery::new([answer(&addresses, json!({"nextRequestDelay": 1500}))]).await;
    let rig = rig(&discovery);
    // 1.5 s after the first address, 3 s after the second, each with its fifth.
    let pause = discovery.question(1).await.0 - discovery.question(0).await.0;
    assert!((3.5..6.4).contains(&pause.as_secs_f64()), "{pause:?}");
    rig.stop().await;
}

// PRO-13: after a good link the same address is the first, at once and without a question.
#[tokio::test]
async fn a_good_link_comes_back_at_once() {
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup {
        discovery: discovery.url(),
        times: Some(|times| times.good = Duration::ZERO),
        ..Setup::default()
    });
    for _ in 0..3 {
        let started = Instant::now();
        let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
        assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
        peer.greeted().await;
        drop(peer);
    }
    assert_eq!(discovery.asked.lock().unwrap().len(), 1);
}

// D9: a link that breaks early is no good one: pauses go on growing, over all rounds.
#[tokio::test]
async fn a_link_that_breaks_early_does_not_shorten_pauses() {
    let (discovery, sockets) = cloud().await;
    let mut rig = rig(&discovery);
    let mut ended = None;
    for least in [0.0, 0.75, 1.55] {
        let (peer, ()) = tokio::join!(sockets.accept(), rig.greet());
        let pause = ended.map_or(0.0, |at: Instant| at.elapsed().as_secs_f64());
        assert!(pause >= least, "{pause} s");
        drop(peer);
        ended = Some(Instant::now());
    }
}

// An address whose links do not hold is left for the next one, and then for what discovery says.
#[tokio::test]
async fn an_address_that_holds_no_link_is_left() {
    let (weak, other, new) = (Sockets::new().await, Sockets::new().await, Sockets::new().await);
    let first = answer(&[weak.url(), other.url()], json!({}));
    let discovery = Discovery::new([first, answer(&[new.url()], json!({}))]).await;
    let mut rig = rig(&discovery);
    for sockets in [&weak, &other] {
        let (peer, ()) = tokio::join!(sockets.accept(), rig.greet());
        drop(peer);
    }
    let (mut peer, ()) = tokio::join!(new.accept(), rig.greet());
    peer.greeted().await;
    assert_eq!(discovery.asked.lock().unwrap().len(), 2);
}

// A cloud that goes away on purpose is left in peace for a moment, each Unit its own.
#[tokio::test]
async fn a_cloud_that_goes_away_spreads_its_units() {
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup {
        discovery: discovery.url(),
        times: Some(|times| times.good = Duration::ZERO),
        ..Setup::default()
    });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let away = CloseFrame { code: CloseCode::Away, reason: "restarting".into() };
    peer.socket.close(Some(away)).await.unwrap();
    let started = Instant::now();
    let _ = tokio::join!(sockets.accept(), rig.greet());
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(discovery.asked.lock().unwrap().len(), 2, "it is asked where to go");
    in_time(rig.way.state.wait_for(|state| state.counters.connections == 2)).await.unwrap();
}
