//! What was changed behind our back.

use super::*;

// SM-03
#[tokio::test]
async fn a_tampered_layer_is_found_at_start_and_fetched_anew() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")]), tar(&[("b", b"B")])]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    manager.close().await;
    let file = image.layers[0].join("a");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "X").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();

    let manager = Manager::open(folder.path(), &cm, RETENTION);
    wait_for("the repair", || (fs::read_to_string(&file).ok()? == "A").then_some(())).await;
    assert_eq!((cm.requests(&service.packed[0]), cm.requests(&service.packed[1])), (2, 1));
    manager.close().await;

    // Without CM the image is not started from what was tampered with; with CM the next request mends it.
    fs::write(&file, "Y").unwrap();
    cm.disconnect();
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let error = manager.install("item", "1.0.0", service.manifest).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    cm.connect().await;
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    assert_eq!(fs::read_to_string(image.layers[0].join("a")).unwrap(), "A");
}

// SM-03: the periodic look reads everything.
#[tokio::test]
async fn a_wrong_document_and_a_missing_layer_are_mended_within_a_period() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")])]);
    let retention = Retention { period: Duration::from_millis(200), ..RETENTION };
    let manager = Manager::open(folder.path(), &cm, retention);
    manager.install("item", "1.0.0", service.manifest).await.unwrap();
    fs::write(blob_path(&manager.folder, &service.config), "{}").unwrap();
    wait_for("the document", || manager.images.present(&service.manifest)).await;
    fs::remove_dir_all(manager.layers().folder(&service.diff_ids[0])).unwrap();
    let check = || manager.layers().check(&service.diff_ids[0], Depth::Full).unwrap();
    wait_for("the layer", || (check() == Condition::Whole).then_some(())).await;
    assert_eq!(manager.versions().await, [("item".to_owned(), "1.0.0".to_owned(), true)]);
}

#[tokio::test]
async fn an_unwanted_item_that_was_tampered_with_goes() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")])]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    manager.use_only(&[]);
    while manager.versions().await != [("item".to_owned(), "1.0.0".to_owned(), false)] {
        tokio::task::yield_now().await;
    }
    manager.close().await;
    fs::write(image.layers[0].join("a"), "X").unwrap();
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    while !manager.versions().await.is_empty() {
        tokio::task::yield_now().await;
    }
    manager.use_only(&[]);
    manager.wait_contents([0, 0, 0, 0]).await;
    assert_eq!(cm.requests(&service.packed[0]), 1);
}
