//! The cloud as a process on the host, on ports of its own choice.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::binaries;
use crate::error::{Error, Result, Tried};
use crate::process::Process;
use crate::site::Site;
use crate::wait::wait_for_or_last;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Where the cloud listens; a restarted cloud listens there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Discovery and WebSocket, `host:port`.
    pub units: String,
    /// REST, `host:port`.
    pub api: String,
    /// Blobs, `host:port`.
    pub blobs: String,
}

impl Endpoints {
    /// The three port numbers.
    pub fn ports(&self) -> Result<[u16; 3]> {
        Ok([port(&self.units)?, port(&self.api)?, port(&self.blobs)?])
    }
}

fn port(address: &str) -> Result<u16> {
    let number = address.rsplit(':').next().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::Unexpected(format!("the cloud told '{address}' as address")))
}

/// A cloud with its data.
#[derive(Debug)]
pub struct Cloud {
    data: PathBuf,
    log: PathBuf,
    endpoints: Endpoints,
    process: Option<Process>,
    /// Further arguments of the program.
    more: Vec<String>,
}

impl Cloud {
    /// Starts a new cloud with empty data in `site`.
    pub fn start(site: &Site) -> Result<Self> {
        Self::start_with(site, &[])
    }

    /// Starts a cloud in `site` with further arguments; its data may be there already.
    pub fn start_with(site: &Site, more: &[&str]) -> Result<Self> {
        let data = site.dir().join("cloud");
        fs::create_dir_all(&data).tried(|| format!("cannot make {}", data.display()))?;
        let log = site.dir().join("cloud.log");
        let any = "127.0.0.1:0".to_owned();
        let anywhere = Endpoints { units: any.clone(), api: any.clone(), blobs: any };
        let mut cloud = Self {
            data,
            log,
            endpoints: anywhere,
            process: None,
            more: more.iter().map(|word| (*word).to_owned()).collect(),
        };
        cloud.run(site)?;
        Ok(cloud)
    }

    /// Starts it again after [`Cloud::kill_9`] or [`Cloud::stop`].
    pub fn restart(&mut self, site: &Site) -> Result<()> {
        self.run(site)
    }

    fn run(&mut self, site: &Site) -> Result<()> {
        let mut command = Command::new(binaries::find("aos-cloud")?);
        command.arg("run").arg("--data").arg(&self.data);
        command.args(["--listen-units", &self.endpoints.units]);
        command.args(["--listen-api", &self.endpoints.api]);
        command.args(["--listen-blobs", &self.endpoints.blobs]);
        command.args(["--listen-metrics", "127.0.0.1:0"]);
        command.args(&self.more);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = Process::start("aos-cloud", command, &self.log)?;
        site.register_process(process.child())?;
        let file = self.data.join("endpoints.json");
        let pid = process.pid();
        let document = wait_for_or_last("the cloud to listen", START_LIMIT, || {
            if let Err(error) = process.check_running() {
                return Ok(Err(error));
            }
            let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            let document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            if document.get("pid").and_then(Value::as_i64) == Some(i64::from(pid)) {
                Ok(Ok(document))
            } else {
                Err("the endpoints of its predecessor".to_owned())
            }
        })??;
        let word = |key: &str| {
            let value = document.get(key).and_then(Value::as_str).map(str::to_owned);
            value.ok_or_else(|| Error::Unexpected(format!("endpoints.json has no '{key}'")))
        };
        let told = Endpoints { units: word("units")?, api: word("api")?, blobs: word("blobs")? };
        let [units, api, blobs] = told.ports()?;
        self.endpoints = Endpoints {
            units: format!("127.0.0.1:{units}"),
            api: format!("127.0.0.1:{api}"),
            blobs: format!("127.0.0.1:{blobs}"),
        };
        self.process = Some(process);
        Ok(())
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Its REST address.
    pub fn url(&self) -> Result<String> {
        Ok(format!("https://localhost:{}", port(&self.endpoints.api)?))
    }

    /// Where it tells its metrics. They move with a restart.
    pub fn metrics(&self) -> Result<SocketAddr> {
        let file = self.data.join("endpoints.json");
        let what = || format!("cannot read {}", file.display());
        let text = fs::read_to_string(&file).tried(what)?;
        let document: Value =
            serde_json::from_str(&text).map_err(|source| Error::Json { what: what(), source })?;
        let address = document.get("metrics").and_then(Value::as_str).and_then(|text| text.parse().ok());
        address.ok_or_else(|| Error::Unexpected("endpoints.json names no metrics".to_owned()))
    }

    /// Its root certificate.
    pub fn root_certificate(&self) -> PathBuf {
        self.data.join("pki/root.pem")
    }

    /// The first administrator's one-time token.
    pub fn bootstrap_token(&self) -> PathBuf {
        self.data.join("bootstrap-token")
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process, for reading memory.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Kills it without warning.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill_9())
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.stop(START_LIMIT).map(drop))
    }
}
