use aos_ids::{ItemId, SubjectId};
use aos_status::AosCode;

use super::*;

fn ident(number: u64) -> InstanceIdent {
    InstanceIdent::service(ItemId::new("item").unwrap(), SubjectId::new("subject").unwrap(), number)
}

fn at(server: &str) -> Permissions {
    BTreeMap::from([(server.to_owned(), BTreeMap::from([("signal.*".to_owned(), "rw".to_owned())]))])
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    async fn open(&self) -> (PermHandler, Shutdown) {
        let shutdown = Shutdown::new();
        let (store, jobs) = Worker::new();
        let value = Store::open(self.dir.path()).unwrap();
        tokio::spawn(crate::worker::run(value, jobs, shutdown.clone()));
        let (handler, task) = open(store).await.unwrap();
        tokio::spawn(task.run(shutdown.clone()));
        (handler, shutdown)
    }
}

// IAM 26.15
#[tokio::test]
async fn registration_answers_questions_and_survives_a_restart() {
    let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
    let (handler, shutdown) = fixture.open().await;
    let secret = handler.register(ident(0), at("vis")).await.unwrap();
    let again = handler.register(ident(0), at("other")).await.unwrap();
    assert_eq!(secret, again, "a known instance keeps its secret");
    assert_ne!(secret, handler.register(ident(1), at("vis")).await.unwrap());
    shutdown.trigger();

    let (handler, _shutdown) = fixture.open().await;
    let (who, functions) = handler.permissions(secret.clone(), "vis".into()).await.unwrap();
    assert_eq!(who, ident(0));
    assert_eq!(functions["signal.*"], "rw");
    let error = handler.permissions(secret.clone(), "other".into()).await.unwrap_err();
    assert_eq!(error.code(), AosCode::NotFound);
    let error = handler.permissions("guess".into(), "vis".into()).await.unwrap_err();
    assert_eq!(error.code(), AosCode::NotFound);
    handler.unregister(ident(0)).await.unwrap();
    assert_eq!(handler.unregister(ident(0)).await.unwrap_err().code(), AosCode::NotFound);
    assert!(handler.permissions(secret, "vis".into()).await.is_err());
}

// IAM 26.15
#[tokio::test]
async fn limits_are_kept() {
    let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
    let (handler, _shutdown) = fixture.open().await;
    let many: Permissions = (0..17).map(|n| (format!("server{n}"), BTreeMap::new())).collect();
    assert_eq!(handler.register(ident(0), many).await.unwrap_err().code(), AosCode::NoMemory);
    let functions = (0..33).map(|n| (format!("f{n}"), "r".to_owned())).collect();
    let many = BTreeMap::from([("vis".to_owned(), functions)]);
    assert_eq!(handler.register(ident(0), many).await.unwrap_err().code(), AosCode::NoMemory);
    let functions = (0..32).map(|n| (format!("f{n}"), "r".to_owned())).collect();
    let full = BTreeMap::from([("vis".to_owned(), functions)]);
    let secret = handler.register(ident(0), full).await.unwrap();
    let (_, functions) = handler.permissions(secret, "vis".into()).await.unwrap();
    assert_eq!(functions.len(), 32);
}

#[test]
fn a_registration_never_shows_its_secret() {
    let registration = Registration { ident: ident(0), secret: "geheim".into(), permissions: at("vis") };
    assert!(!format!("{registration:?}").contains("geheim"));
}

// IAM 26.15
#[test]
fn registrations_of_another_boot_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let registration = Registration { ident: ident(0), secret: "one".into(), permissions: at("vis") };
    store.add_registration("first boot", &registration).unwrap();
    assert_eq!(store.registrations("first boot").unwrap(), [registration]);
    assert!(store.registrations("second boot").unwrap().is_empty());
    assert!(store.registrations("first boot").unwrap().is_empty());
}
