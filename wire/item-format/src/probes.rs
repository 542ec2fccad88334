//! Probes: how a Unit finds out whether a service is ready and whether it still lives. An extension of ours;
//! without the key the state of the process alone counts.

use std::time::Duration;

use aos_duration_text::DurationText;
use aos_loose_json::KeyError;
use serde::{Deserialize, Serialize};

const MAX_THRESHOLD: u32 = 100;
const MAX_WORDS: usize = 64;
const MAX_COMMAND: usize = 4096;
const MAX_PATH: usize = 256;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(24);
const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Probes of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probes {
    /// Time from the start of the process within which it has to become ready.
    pub start_timeout: DurationText,
    /// Asked after a start until it succeeds; only then the instance counts as active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Asked as long as the instance is active; when it fails the instance is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { start_timeout: DurationText(Duration::from_mins(1)), readiness: None, liveness: None }
    }
}

impl Probes {
    /// True when nothing is probed.
    pub fn is_empty(&self) -> bool {
        self.readiness.is_none() && self.liveness.is_none()
    }

    pub(crate) fn check(&self) -> Result<(), KeyError> {
        within("probes.startTimeout", self.start_timeout, SHORTEST, LONGEST)?;
        for (name, probe) in [("readiness", &self.readiness), ("liveness", &self.liveness)] {
            if let Some(probe) = probe {
                probe.check(&format!("probes.{name}"))?;
            }
        }
        Ok(())
    }
}

/// One probe; exactly one of `exec`, `tcp` and `http` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Command run inside the instance; exit status 0 is success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// Port that must accept a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Request that must be answered with status 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Pause before the first try.
    pub initial_delay: DurationText,
    /// Pause between two tries.
    pub period: DurationText,
    /// Time one try may take.
    pub timeout: DurationText,
    /// Successes in a row that make up a good result.
    pub success_threshold: u32,
    /// Failures in a row that make up a bad result.
    pub failure_threshold: u32,
}

/// A TCP port of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpProbe {
    /// The port, not 0.
    pub port: u16,
}

/// An HTTP request (version 1.0, GET, without TLS).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpProbe {
    /// The port, not 0.
    pub port: u16,
    /// Path with query.
    pub path: String,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self { port: 0, path: "/".to_owned() }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            exec: Vec::new(),
            tcp: None,
            http: None,
            initial_delay: DurationText(Duration::ZERO),
            period: DurationText(Duration::from_secs(10)),
            timeout: DurationText(Duration::from_secs(1)),
            success_threshold: 1,
            failure_threshold: 3,
        }
    }
}

impl Probe {
    fn check(&self, path: &str) -> Result<(), KeyError> {
        let wrong = |name: &str, reason: &str| Err(KeyError::new(format!("{path}.{name}"), reason));
        let kinds = [!self.exec.is_empty(), self.tcp.is_some(), self.http.is_some()];
        if kinds.into_iter().filter(|there| *there).count() != 1 {
            return Err(KeyError::new(path, "exactly one of exec, tcp and http is needed"));
        }
        if self.exec.len() > MAX_WORDS || self.exec.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
            return wrong("exec", "the command is too long");
        }
        if self.exec.first().is_some_and(String::is_empty) || self.exec.iter().any(|word| word.contains('\0'))
        {
            return wrong("exec", "this is no command");
        }
        if self.tcp.as_ref().is_some_and(|tcp| tcp.port == 0) {
            return wrong("tcp.port", "must be 1 to 65535");
        }
        if let Some(http) = &self.http {
            if http.port == 0 {
                return wrong("http.port", "must be 1 to 65535");
            }
            let plain = http.path.bytes().all(|byte| byte.is_ascii_graphic());
            if !http.path.starts_with('/') || !plain || http.path.len() > MAX_PATH {
                return wrong("http.path", "must begin with / and have at most 256 plain characters");
            }
        }
        within(&format!("{path}.initialDelay"), self.initial_delay, Duration::ZERO, LONGEST)?;
        within(&format!("{path}.period"), self.period, SHORTEST, LONGEST)?;
        within(&format!("{path}.timeout"), self.timeout, Duration::from_millis(1), LONGEST_TIMEOUT)?;
        for (name, value) in
            [("successThreshold", self.success_threshold), ("failureThreshold", self.failure_threshold)]
        {
            if !(1..=MAX_THRESHOLD).contains(&value) {
                return wrong(name, "must be 1 to 100");
            }
        }
        Ok(())
    }
}

fn within(path: &str, value: DurationText, least: Duration, most: Duration) -> Result<(), KeyError> {
    if (least..=most).contains(&value.get()) {
        return Ok(());
    }
    Err(KeyError::new(path, format!("must be {} to {} s", least.as_secs_f32(), most.as_secs())))
}
