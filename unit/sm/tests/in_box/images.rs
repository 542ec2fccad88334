//! Images as others make them: nginx of Debian in layers of every packing, and one made by umoci.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cm::wait_for;
use crate::image::{Blobs, Image, digest, wish};
use crate::sm::Sm;
use crate::tests::with_tmp;

/// Runs a tool of the machine; its output.
fn tool(program: &str, arguments: &[&str], input: Option<&Path>) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments);
    command.stdin(input.map_or_else(Stdio::null, |input| fs::File::open(input).unwrap().into()));
    let output = command.output().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A folder as a tar stream, packed by the machine's tar.
fn tar(folder: &Path) -> Vec<u8> {
    tool("tar", &["c", "--owner=0", "--group=0", "-C", folder.to_str().unwrap(), "."], None)
}

/// Copies files of the machine, and what they are linked against, under their own names.
fn copy(into: &Path, files: &[&str]) {
    for file in files {
        let mut needed = vec![PathBuf::from(file)];
        let listed = String::from_utf8(tool("ldd", &[file], None)).unwrap();
        needed.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        for path in needed {
            let target = into.join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Publishes an image of packed layers: media type, content, diff ID.
fn publish(blobs: &Blobs, layers: &[(&str, Vec<u8>, String)], command: &Value, item: &Value) -> Image {
    let describe = |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": blobs.put(content), "size": content.len()});
    let described: Vec<Value> = layers.iter().map(|(kind, content, _)| describe(kind, content)).collect();
    let diff_ids: Vec<&String> = layers.iter().map(|(_, _, diff_id)| diff_id).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": command,
                        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = json!({
        "schemaVersion": 2,
        "config": describe("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "aosItemConfig": describe("application/vnd.aos.item.config.v1+json", item.to_string().as_bytes()),
        "layers": described,
    });
    let layers = layers.iter().map(|(_, content, _)| digest(content)).collect();
    Image { manifest: blobs.put(manifest.to_string().as_bytes()), layers }
}

fn get(ip: &str) -> Option<String> {
    let mut stream = TcpStream::connect((ip, 8080)).ok()?;
    stream.write_all(b"GET /page.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("200 OK").then_some(text)
}

const NGINX: &str = "daemon off;\npid /tmp/pid;\nerror_log stderr;\nevents {}\nhttp {\n access_log off;\n\
    client_body_temp_path /tmp/body;\n proxy_temp_path /tmp/proxy;\n fastcgi_temp_path /tmp/fastcgi;\n\
    uwsgi_temp_path /tmp/uwsgi;\n scgi_temp_path /tmp/scgi;\n\
    server { listen 8080; root /srv; }\n}\n";

// SM-03, SM-01: gzip, zstd and squashfs layers of one service that really serves.
pub async fn nginx_serves_from_layers_of_every_packing() {
    let sm = Sm::start("crun").await;
    let folder = sm.folder.path().join("layers");
    let place = |name: &str| {
        let place = folder.join(name);
        fs::create_dir_all(&place).unwrap();
        place
    };
    let (program, settings, content) = (place("program"), place("settings"), place("content"));
    copy(&program, &["/usr/sbin/nginx"]);
    fs::create_dir_all(program.join("tmp")).unwrap();
    fs::create_dir_all(settings.join("etc/nginx")).unwrap();
    fs::write(settings.join("etc/nginx/nginx.conf"), NGINX).unwrap();
    fs::write(settings.join("etc/passwd"), "web:x:5001:5002::/:/bin/false\n").unwrap();
    fs::create_dir_all(content.join("srv")).unwrap();
    fs::write(content.join("srv/page.html"), "a page of a squashfs layer\n").unwrap();

    let pack = |name: &str, folder: &Path, arguments: &[&str]| {
        let plain = tar(folder);
        let path = sm.folder.path().join(name);
        fs::write(&path, &plain).unwrap();
        (tool(name, arguments, Some(&path)), digest(&plain))
    };
    let (packed_program, program_id) = pack("gzip", &program, &["-6", "-c"]);
    let (packed_settings, settings_id) = pack("zstd", &settings, &["-q", "-c", "-10"]);
    let image_file = sm.folder.path().join("squashfs");
    pack("tar2sqfs", &content, &["-q", image_file.to_str().unwrap()]);
    let squashfs = fs::read(&image_file).unwrap();
    let squashfs_id = digest(&squashfs);
    let layers = [
        ("application/vnd.oci.image.layer.v1.tar+gzip", packed_program, program_id),
        ("application/vnd.oci.image.layer.v1.tar+zstd", packed_settings, settings_id),
        ("application/vnd.oci.image.layer.v1.squashfs", squashfs, squashfs_id),
    ];
    let command = json!({"Entrypoint": ["/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/nginx/nginx.conf"]});
    let image = publish(&sm.blobs, &layers, &command, &with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    let status = sm.cm.wait_state(0, "active").await;
    assert_eq!(status.error, None);
    let local = sm.instance(0).await;
    let ip = local["ip"].as_str().unwrap().to_owned();
    let answer = wait_for("nginx", || get(&ip)).await;
    assert!(answer.contains("Server: nginx") && answer.ends_with("a page of a squashfs layer\n"), "{answer}");
}

// SM-03: an image of several layers as a real tool makes it, with its own spelling of whiteouts.
pub async fn an_image_made_by_umoci_runs() {
    let sm = Sm::start("crun").await;
    let layout = sm.folder.path().join("layout");
    let (layout_text, name) = (layout.to_str().unwrap().to_owned(), format!("{}:made", layout.display()));
    let source = |name: &str, files: &[(&str, &[u8])]| {
        let folder = sm.folder.path().join(name);
        for (path, content) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    };
    let base =
        source("base", &[("bin/.keep", b""), ("etc/old", b"old"), ("etc/kept", b"kept"), ("opt/a/x", b"x")]);
    fs::copy("/bin/busybox", Path::new(&base).join("bin/busybox")).unwrap();
    let more = source("more", &[("etc/kept", b"changed"), ("opt/a/y", b"y")]);
    let opaque = source("opaque", &[("z", b"z")]);
    let umoci = |arguments: &[&str]| tool("umoci", arguments, None);
    umoci(&["init", "--layout", &layout_text]);
    umoci(&["new", "--image", &name]);
    umoci(&["insert", "--image", &name, &base, "/"]);
    umoci(&["insert", "--image", &name, &more, "/"]);
    umoci(&["insert", "--image", &name, "--whiteout", "/etc/old"]);
    umoci(&["insert", "--image", &name, "--opaque", &opaque, "/opt/a"]);
    let script = "b=/bin/busybox; for f in etc/old etc/kept opt/a/x opt/a/y opt/a/z; do \
                  echo \"$f $($b cat /$f 2>/dev/null || echo none)\"; done; echo end; exec $b sleep 1000";
    umoci(&[
        "config",
        "--image",
        &name,
        "--config.entrypoint",
        "/bin/busybox",
        "--config.entrypoint",
        "sh",
        "--config.entrypoint",
        "-c",
        "--config.cmd",
        script,
    ]);

    // What the cloud does when an image is published: the item configuration is added to the manifest.
    let blob = |digest: &str| fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut manifest: Value =
        serde_json::from_slice(&blob(index["manifests"][0]["digest"].as_str().unwrap())).unwrap();
    let layers = manifest["layers"].as_array().unwrap().clone();
    assert_eq!(layers.len(), 4);
    for described in layers.iter().chain([&manifest["config"]]) {
        sm.blobs.put(&blob(described["digest"].as_str().unwrap()));
    }
    let item = json!({"created": "2026-01-01T00:00:00Z"}).to_string();
    manifest["aosItemConfig"] = json!({"mediaType": "application/vnd.aos.item.config.v1+json",
        "digest": sm.blobs.put(item.as_bytes()), "size": item.len()});
    let image = Image { manifest: sm.blobs.put(manifest.to_string().as_bytes()), layers: vec![] };
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    let status = sm.cm.wait_state(0, "active").await;
    assert_eq!(status.error, None);
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let log = wait_for("its words", || Some(sm.log(&id)).filter(|log| log.contains("end\n"))).await;
    for line in ["etc/old none", "etc/kept changed", "opt/a/x none", "opt/a/y none", "opt/a/z z"] {
        assert!(log.contains(&format!("{line}\n")), "'{line}' is not in:\n{log}");
    }
}
