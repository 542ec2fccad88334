//! The specification names exactly the tests that cite its promises.

use aos_specification::{refresh, scan, workspace};

#[test]
fn specification_names_the_tests_that_exist() {
    let text = std::fs::read_to_string(workspace().join("SPECIFICATION.md")).unwrap();
    let fresh = refresh(&text, &scan(&workspace()).unwrap());
    let stale: Vec<_> = text.lines().zip(fresh.lines()).filter(|(old, new)| old != new).collect();
    assert!(stale.is_empty(), "run `make spec`; stale rows (old, new): {stale:#?}");
}
