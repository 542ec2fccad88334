//! The operator: drives the cloud through the real `aosctl`, and reads its REST documents where a test needs
//! what the command line does not show.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::binaries;
use crate::cloud::Cloud;
use crate::error::{Error, Result, Tried};
use crate::http;
use crate::site::Site;
use crate::tls_probe::{self, Identity};

const PROFILE: &str = "oem";
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// An operator with credentials.
#[derive(Debug, Clone)]
pub struct Operator {
    home: PathBuf,
    url: String,
    address: String,
}

impl Operator {
    /// Logs in with the cloud's first token and creates an OEM user, whose credentials are used from then on.
    pub fn enrol(site: &Site, cloud: &Cloud) -> Result<Self> {
        let operator = Self {
            home: site.dir().join("aosctl"),
            url: cloud.url()?,
            address: cloud.endpoints().api.clone(),
        };
        let (ca, token) = (cloud.root_certificate(), cloud.bootstrap_token());
        let login = [
            OsStr::new("login"),
            OsStr::new("--cloud"),
            OsStr::new(&operator.url),
            OsStr::new("--ca"),
            ca.as_os_str(),
            OsStr::new("--token-file"),
            token.as_os_str(),
        ];
        operator.run_as("admin", &login)?;
        let create =
            ["user", "create", "--role", "oem", "--company", "Demo", "--username", "demo", "--save-profile"];
        operator.run_as("admin", &[&create[..], &[PROFILE]].concat())?;
        Ok(operator)
    }

    /// The command a person types: environment and program, to be followed by the arguments.
    pub fn command_line(&self) -> Result<String> {
        let program = binaries::find("aosctl")?;
        Ok(format!("AOSCTL_HOME={} {} --profile {PROFILE}", self.home.display(), program.display()))
    }

    /// Runs `aosctl` and returns what it prints.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        self.run_as(PROFILE, args)
    }

    /// Runs `aosctl` with JSON output.
    pub fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Value> {
        let mut all: Vec<&OsStr> = vec![OsStr::new("--output"), OsStr::new("json")];
        all.extend(args.iter().map(AsRef::as_ref));
        let text = self.run(&all)?;
        serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: "the output of aosctl".to_owned(), source })
    }

    fn run_as<S: AsRef<OsStr>>(&self, profile: &str, args: &[S]) -> Result<String> {
        let mut command = Command::new(binaries::find("aosctl")?);
        command.env("AOSCTL_HOME", &self.home).args(["--profile", profile]).args(args);
        let output = command.output().tried(|| "cannot run aosctl".to_owned())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words: Vec<String> =
            args.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        Err(Error::Program {
            program: format!("aosctl {}", words.join(" ")),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Creates a user of `role` for `company`, as the administrator, and returns its one-time token.
    pub fn user_token(&self, role: &str, company: &str) -> Result<String> {
        let name = format!("{role}-{}", company.to_lowercase());
        let create = ["--output", "json", "user", "create", "--role", role, "--company", company];
        let text = self.run_as("admin", &[&create[..], &["--username", &name]].concat())?;
        let created: Value = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: "the output of aosctl".to_owned(), source })?;
        let token = created.get("token").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| Error::Unexpected("the new user got no token".to_owned()))
    }

    /// A user of another company with credentials of its own.
    pub fn colleague(&self, site: &Site, cloud: &Cloud, role: &str, company: &str) -> Result<Self> {
        let other = Self { home: site.dir().join(format!("aosctl-{company}")), ..self.clone() };
        let token = site.dir().join(format!("token-{company}"));
        std::fs::write(&token, self.user_token(role, company)?)
            .tried(|| format!("cannot write {}", token.display()))?;
        let ca = cloud.root_certificate();
        let login = [OsStr::new("login"), OsStr::new("--cloud"), OsStr::new(&self.url), OsStr::new("--ca")];
        let files = [ca.as_os_str(), OsStr::new("--token-file"), token.as_os_str()];
        other.run_as(PROFILE, &[&login[..], &files[..]].concat())?;
        Ok(other)
    }

    /// The status document of a Unit.
    pub fn unit_status(&self, system_id: &str) -> Result<Value> {
        self.get(&format!("units/{system_id}/status/"))
    }

    /// The status document of a Unit once it is newer than `revision`, or after `wait` seconds.
    pub fn unit_status_after(&self, system_id: &str, revision: u64, wait: u64) -> Result<Value> {
        self.get(&format!("units/{system_id}/status/?after={revision}&wait={wait}"))
    }

    /// `GET` of a REST document with the operator's certificate.
    pub fn get(&self, path: &str) -> Result<Value> {
        let what = || format!("cannot ask the cloud for {path}");
        let ca = self.home.join(PROFILE).join("ca.pem");
        let identity = self.identity().tried(what)?;
        let mut tls = tls_probe::connect(&self.address, &ca, Some(identity), ANSWER_LIMIT).tried(what)?;
        let request = format!("GET /api/v11/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let bytes = tls_probe::ask(&mut tls, &request).tried(what)?;
        let answer =
            http::parse(&bytes).ok_or_else(|| Error::Unexpected(format!("{}: no HTTP answer", what())))?;
        if answer.status != 200 {
            return Err(Error::Unexpected(format!("{}: {} {}", what(), answer.status, answer.text())));
        }
        serde_json::from_slice(&answer.body).map_err(|source| Error::Json { what: what(), source })
    }

    /// The operator's certificate and key.
    pub fn identity(&self) -> std::io::Result<Identity> {
        let dir = self.home.join(PROFILE);
        Identity::from_files(&dir.join("cert.pem"), &dir.join("key.pem"))
    }
}
