//! CM-14: states of items through updates, good and bad.

use aos_ids::OwnerId;
use aos_status::AosCode;
use proptest::prelude::*;

use super::*;

fn item(n: u8, version: &str) -> DesiredItem {
    DesiredItem {
        id: ItemId::new(format!("i{n}")).unwrap(),
        kind: ItemKind::Service,
        version: version.into(),
        owner: OwnerId::new("sp").unwrap(),
        index: Digest::from_sha256([u8::try_from(version.len()).unwrap(); 32]),
    }
}

fn state(book: &Book, item: &DesiredItem) -> Option<ItemState> {
    book.get(&item.id, &item.version).map(|record| record.state)
}

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn update(book: &mut Book, wanted: &[DesiredItem], good: bool) {
    book.begin(wanted);
    for want in wanted {
        let result =
            if good { Ok(()) } else { Err(ErrorInfo::new(AosCode::InvalidChecksum, "wrong digest")) };
        book.fetched(&want.id, &want.version, result);
    }
    book.finalize(wanted, NOW);
}

#[test]
fn a_new_version_replaces_the_old_one() {
    let (old, new) = (item(1, "1.0.0"), item(1, "1.10.0"));
    let mut book = Book::default();
    update(&mut book, std::slice::from_ref(&old), true);
    assert_eq!(state(&book, &old), Some(ItemState::Installed));
    book.begin(std::slice::from_ref(&new));
    assert_eq!(
        (state(&book, &old), state(&book, &new)),
        (Some(ItemState::Installed), Some(ItemState::Downloading))
    );
    assert_eq!(book.usable(&new.id, &new.version).unwrap().0, "1.0.0");
    book.fetched(&new.id, &new.version, Ok(()));
    assert_eq!(book.usable(&new.id, &new.version).unwrap().0, "1.10.0");
    book.finalize(std::slice::from_ref(&new), NOW);
    assert_eq!(
        (state(&book, &old), state(&book, &new)),
        (Some(ItemState::Removed), Some(ItemState::Installed))
    );
}

// REL-07
// CM-14
#[test]
fn a_failed_version_leaves_the_installed_one_alone_and_keeps_its_reason() {
    let (old, new) = (item(1, "1.0.0"), item(1, "1.10.0"));
    let mut book = Book::default();
    update(&mut book, std::slice::from_ref(&old), true);
    update(&mut book, std::slice::from_ref(&new), false);
    assert_eq!(
        (state(&book, &old), state(&book, &new)),
        (Some(ItemState::Installed), Some(ItemState::Failed))
    );
    assert_eq!(
        book.get(&new.id, &new.version).unwrap().error.as_ref().unwrap().code(),
        AosCode::InvalidChecksum
    );
    assert_eq!(book.usable(&new.id, &new.version).unwrap().0, "1.0.0");
    update(&mut book, std::slice::from_ref(&new), true);
    assert_eq!(
        (state(&book, &old), state(&book, &new)),
        (Some(ItemState::Removed), Some(ItemState::Installed))
    );
    assert_eq!(book.get(&new.id, &new.version).unwrap().error, None);
}

#[test]
fn unwanted_items_stay_until_their_time_is_over_and_can_come_back() {
    let one = item(1, "1.0.0");
    let mut book = Book::default();
    update(&mut book, std::slice::from_ref(&one), true);
    update(&mut book, &[], true);
    assert_eq!(state(&book, &one), Some(ItemState::Removed));
    let ttl = Duration::from_secs(10);
    assert!(book.clone().expire(NOW + Duration::from_secs(9), ttl).is_empty());
    assert_eq!(book.clone().expire(NOW + ttl, ttl).len(), 1);
    update(&mut book, std::slice::from_ref(&one), true);
    assert_eq!(state(&book, &one), Some(ItemState::Installed));
    assert_eq!(book.get(&one.id, &one.version).unwrap().removed_at, None);
}

#[test]
fn leftovers_of_a_replaced_wish_go() {
    let (first, second) = (item(1, "1.0.0"), item(1, "1.10.0"));
    let mut book = Book::default();
    book.begin(std::slice::from_ref(&first));
    let changes = book.begin(std::slice::from_ref(&second));
    assert_eq!(changes.len(), 2);
    assert_eq!((state(&book, &first), state(&book, &second)), (None, Some(ItemState::Downloading)));
}

#[test]
fn nothing_changes_for_what_is_installed() {
    let one = item(1, "1.0.0");
    let mut book = Book::default();
    update(&mut book, std::slice::from_ref(&one), true);
    assert!(book.begin(std::slice::from_ref(&one)).is_empty());
    assert!(book.fetched(&one.id, &one.version, Ok(())).is_none());
    assert!(book.finalize(std::slice::from_ref(&one), NOW).is_empty());
}

proptest! {
    // An item that was ever installed keeps an installed version until it is unwanted; two versions at most.
    #[test]
    fn an_installed_item_is_never_lost_by_a_bad_update(
        steps in proptest::collection::vec((0..4u8, any::<bool>()), 1..12)
    ) {
        let mut book = Book::default();
        let mut ever = false;
        for (n, good) in steps {
            update(&mut book, &[item(1, &format!("{}.0.0", 10_u32.pow(n.into())))], good);
            ever |= good;
            let installed = book.records().values().filter(|record| record.state == ItemState::Installed).count();
            prop_assert_eq!(installed, usize::from(ever));
            prop_assert!(book.records().len() <= 3);
        }
    }
}
