//! Images to publish, and the changes that the command line makes to them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::blob::Blob;
use super::{EPOCH, layer, layout, words};
use crate::cli::PublishArgs;

/// Media type of image configurations.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// One image: its configuration and its layers, lowest first.
#[derive(Debug)]
pub struct Image {
    /// OCI image configuration.
    pub config: Value,
    /// Layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Image {
    /// The platform entry of an index.
    pub fn platform(&self) -> Value {
        let mut platform = Map::new();
        for key in ["architecture", "variant", "os", "os.version", "os.features"] {
            if let Some(value) = self.config.get(key) {
                platform.insert(key.to_owned(), value.clone());
            }
        }
        Value::Object(platform)
    }
}

/// The images that the command line names; `scratch` is a folder that lives long enough.
pub fn collect(args: &PublishArgs, scratch: &Path) -> Result<Vec<Image>> {
    let mut images = match (&args.oci, &args.rootfs) {
        (Some(path), _) => layout::read(path, scratch)?,
        (None, Some(folder)) => vec![from_folder(folder, &args.arch, scratch)?],
        (None, None) => bail!("name an image with --oci or --rootfs"),
    };
    for image in &mut images {
        change(&mut image.config, args)?;
        check(image)?;
    }
    Ok(images)
}

fn from_folder(folder: &Path, architecture: &str, scratch: &Path) -> Result<Image> {
    let (layer, diff_id) = layer::pack(folder, &scratch.join("layer.tar.gz"))?;
    let config = json!({
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
    });
    Ok(Image { config, layers: vec![layer] })
}

/// Applies the options; an image that none concerns stays as it is, down to its digest.
fn change(config: &mut Value, args: &PublishArgs) -> Result<()> {
    let Some(document) = config.as_object_mut() else { bail!("the image configuration is not a JSON object") };
    let run = document.entry("config").or_insert_with(|| json!({}));
    if run.is_null() {
        *run = json!({});
    }
    let Some(run) = run.as_object_mut() else { bail!("the image configuration's 'config' is not an object") };
    if let Some(command) = &args.cmd {
        let command = words::split(command).context("--cmd")?;
        if command.is_empty() {
            bail!("--cmd is empty");
        }
        run.insert("Cmd".to_owned(), json!(command));
        run.remove("Entrypoint");
    }
    for variable in &args.env {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!("--env '{variable}' is not NAME=VALUE");
        };
        let list = run.entry("Env").or_insert_with(|| json!([]));
        let Some(list) = list.as_array_mut() else { bail!("the image configuration's 'Env' is not a list") };
        list.retain(|known| known.as_str().and_then(|known| known.split('=').next()) != Some(name));
        list.push(json!(variable));
    }
    for port in &args.expose {
        let port = exposed(port)?;
        let ports = run.entry("ExposedPorts").or_insert_with(|| json!({}));
        let Some(ports) = ports.as_object_mut() else {
            bail!("the image configuration's 'ExposedPorts' is not an object");
        };
        ports.insert(port, json!({}));
    }
    if let Some(user) = &args.user {
        run.insert("User".to_owned(), json!(user));
    }
    if let Some(dir) = &args.workdir {
        run.insert("WorkingDir".to_owned(), json!(dir));
    }
    Ok(())
}

/// `8080` or `8080/tcp` as an exposed port.
fn exposed(port: &str) -> Result<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let good = number.parse::<u16>().is_ok_and(|number| number > 0) && matches!(protocol, "tcp" | "udp");
    if good { Ok(format!("{number}/{protocol}")) } else { bail!("--expose '{port}' is not PORT, PORT/tcp or PORT/udp") }
}

/// What a Unit would refuse is refused here already.
fn check(image: &Image) -> Result<()> {
    if image.config.get("architecture").and_then(Value::as_str).is_none_or(str::is_empty) {
        bail!("the image configuration names no architecture");
    }
    let ids = image.config.pointer("/rootfs/diff_ids").and_then(Value::as_array).map_or(0, Vec::len);
    if ids != image.layers.len() {
        bail!("the image has {} layers, but its configuration lists {ids}", image.layers.len());
    }
    let list = |key: &str| {
        image.config.pointer(&format!("/config/{key}")).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    };
    if !list("Cmd") && !list("Entrypoint") {
        bail!("the image does not say what to run; add --cmd");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::cli::{Cli, Command, ItemCommand};

    fn args(more: &[&str]) -> PublishArgs {
        let base = ["aosctl", "item", "publish", "--oci", "x", "--codename", "c", "--version", "1.0.0"];
        let cli = Cli::try_parse_from(base.iter().chain(more)).unwrap();
        let Command::Item(ItemCommand::Publish(args)) = cli.command else { panic!("other command") };
        *args
    }

    #[test]
    fn options_change_the_configuration() {
        let mut config = json!({"config": {"Env": ["A=1", "B=2"], "Entrypoint": ["/old"]}});
        let options = ["--cmd", "/bin/x -p 'a b'", "--env", "A=3", "--expose", "80", "--user", "5:6", "--workdir", "/w"];
        change(&mut config, &args(&options)).unwrap();
        assert_eq!(
            config["config"],
            json!({"Env": ["B=2", "A=3"], "Cmd": ["/bin/x", "-p", "a b"], "ExposedPorts": {"80/tcp": {}},
                   "User": "5:6", "WorkingDir": "/w"})
        );
    }

    #[test]
    fn wrong_options_are_told() {
        for (option, value) in [("--env", "A"), ("--env", "=1"), ("--expose", "0"), ("--expose", "80/sctp"), ("--cmd", "'x")] {
            assert!(change(&mut json!({}), &args(&[option, value])).is_err(), "{option} {value}");
        }
    }
}
