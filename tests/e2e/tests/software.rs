//! Software that others made, packed with a tool that others made, from the cloud to its answer.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{LIMIT, Scene, UNIT};
use serde_json::json;

const NGINX: &str = "daemon off; pid /tmp/pid; error_log stderr; worker_processes 2;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 8080; root /srv/pages; }
}";

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One more layer on `img:v1`, as `umoci` makes it of what `change` does to the unpacked root.
fn layer(dir: &Path, change: impl FnOnce(&Path)) {
    run("umoci", &["unpack", "--image", "img:v1", "bundle"], dir);
    change(&dir.join("bundle/rootfs"));
    run("umoci", &["repack", "--image", "img:v1", "bundle"], dir);
    fs::remove_dir_all(dir.join("bundle")).unwrap();
}

fn copy(file: &Path, root: &Path) {
    let target = root.join(file.strip_prefix("/").unwrap());
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(file, target).unwrap();
}

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// nginx with its libraries, its configuration and two versions of a page, in four layers.
fn nginx(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    run("umoci", &["init", "--layout", "img"], dir);
    run("umoci", &["new", "--image", "img:v1"], dir);
    let listed = Command::new("ldd").arg("/usr/sbin/nginx").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    layer(dir, |root| libraries.for_each(|library| copy(Path::new(library), root)));
    layer(dir, |root| copy(Path::new("/usr/sbin/nginx"), root));
    layer(dir, |root| {
        put(root, "etc/nginx.conf", NGINX);
        put(root, "srv/pages/index.html", "of a lower layer\n");
        put(root, "srv/pages/old.html", "gone\n");
    });
    layer(dir, |root| {
        put(root, "srv/pages/index.html", "of the upper layer\n");
        fs::remove_file(root.join("srv/pages/old.html")).unwrap();
    });
    let words = ["config", "--image", "img:v1", "--config.cmd", "/usr/sbin/nginx", "--config.cmd", "-c"];
    let more = ["--config.cmd", "/etc/nginx.conf", "--config.exposedports", "8080/tcp"];
    run("umoci", &[&words[..], &more[..]].concat(), dir);
}

// SM-03, ARC-03: an image of several layers with a real server in it.
#[test]
fn nginx_in_an_image_of_several_layers_serves_through_the_cloud() {
    let mut scene = Scene::online("e2e-nginx");
    let dir = scene.stage.site.dir().join("nginx");
    nginx(&dir);
    let config = dir.join("item.json");
    fs::write(&config, json!({"quotas": {"tmpLimit": 1 << 20, "ramLimit": 64 << 20}}).to_string()).unwrap();
    let (image, config) = (dir.join("img").display().to_string(), config.display().to_string());
    let publish = ["item", "publish", "--oci", &image, "--codename", "server", "--version", "1.0.0"];
    scene.run(&[&publish[..], &["--config", &config]].concat());
    scene.run(&["assign", UNIT, "server"]);
    let active = scene.stage.wait_active("server", "1.0.0", LIMIT);
    scene.expect(active);
    assert_eq!(scene.ask("/"), "of the upper layer\n");
    let link = scene.stage.unit.link_to_service(aos_testbed::service::PORT, LIMIT).unwrap();
    let gone = scene.until("an answer", || {
        aos_testbed::http::get(link.address(), "/old.html", LIMIT).map_err(|error| error.to_string())
    });
    assert_eq!(gone.status, 404);
    scene.until("the access log", || {
        let text = scene.run(&["logs", UNIT, "server"]);
        if text.contains("GET / HTTP") && text.contains("GET /old.html") { Ok(()) } else { Err(text) }
    });
}
