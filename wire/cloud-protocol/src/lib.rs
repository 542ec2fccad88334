//! Cloud protocol v7: the messages between a Unit and its cloud, for both ends.
//!
//! ```
//! use aos_cloud_protocol::{Body, Direction, Envelope, ReadError, RequestBlobUrls, read, write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let system_id = "unit-1".parse()?;
//! let digest = format!("sha256:{}", "0".repeat(64)).parse()?;
//! let body = Body::RequestBlobUrls(RequestBlobUrls { digests: vec![digest] });
//! let message = Envelope::new(system_id, jiff::Timestamp::UNIX_EPOCH, body).with_correlation_id("one");
//! let frame = write(&message)?;
//! match read(&frame, Direction::UnitToCloud) {
//!     Ok(envelope) => assert_eq!(envelope, message),
//!     Err(ReadError::Unreadable(_)) => {}      // drop
//!     Err(ReadError::Invalid(_message)) => {}  // acknowledge and report
//! }
//! # Ok(())
//! # }
//! ```
//!
//! * [`read`] is tolerant: it takes what any known peer sends, and says whether a bad frame is to be dropped
//!   or acknowledged. [`write`] is strict: it writes what every known peer takes.
//! * Absent lists differ from empty ones only in [`DesiredStatus`] and [`UnitStatus`].
//! * Identities are looked up through [`AosIdentity`]'s accessors.
//! * [`limits`] finds what an upstream Unit would drop without a word, before it is sent.
//! * [`is_enveloped`] tells a sealed frame from a plain one; sealing and opening is the business of others.
//! * Limits: frames of 16 MiB, 500 000 values a frame, 4096 entries a list, 64 levels.
//! * Acknowledging, repeating and ordering is the business of the session, not of this crate.
//! * `Debug` of any message shows no password, token or key.

mod alerts;
mod blobs;
mod body;
mod bounded;
mod certificates;
mod desired;
pub mod discovery;
mod encoded;
mod env_vars;
mod envelope;
mod enveloped;
mod identity;
mod lenient;
pub mod limits;
mod link;
mod logs;
mod monitoring;
mod provisioning;
mod read;
mod state;
mod status;
pub mod time;
mod unit_config;
mod write;

pub use aos_status::{ConfigState, ErrorInfo, InstanceState, ItemState, NodeState};

pub use alerts::{
    Alert, Alerts, CoreAlert, DeviceAllocateAlert, DownloadProgressAlert, DownloadState, InstanceQuotaAlert,
    MAX_ALERT_MESSAGE, SystemAlert, SystemQuotaAlert, UpdateItemInstanceAlert,
};
pub use blobs::{
    AES256_CBC, BlobInfo, BlobUrls, DecryptInfo, MAX_BLOBS, RSA_SHA256, RequestBlobUrls, SignInfo,
};
pub use body::{Body, Direction, MessageType};
pub use certificates::{
    CertificateRequest, CertificateToRenew, CertificateType, InstallUnitCertificatesConfirmation,
    InstalledCertificate, IssueUnitCertificates, IssuedCertificate, IssuedUnitCertificates, NodeSecret,
    RenewCertificatesNotification, UnitSecrets,
};
pub use desired::{
    CertificateChain, CertificateInfo, DesiredInstance, DesiredItem, DesiredNodeState, DesiredStatus,
    MAX_INSTANCE_PRIORITY, MAX_NUM_INSTANCES, NodeDesiredState, Subject, SubjectType,
};
pub use encoded::{Base64Bytes, ChecksumLength, Secret, ServedHash, StateChecksum};
pub use env_vars::{
    EnvVar, EnvVarStatus, EnvVarsFilter, MAX_VARIABLE_NAME, MAX_VARIABLE_VALUE, OverrideEnvVars,
    OverrideEnvVarsStatus,
};
pub use envelope::{Envelope, Header, MAX_CORRELATION_ID, VERSION};
pub use enveloped::is_enveloped;
pub use identity::{AosIdentity, ArchInfo, IdentityType, OsInfo};
pub use link::{Ack, DEFAULT_RETRY_AFTER, Nack};
pub use logs::{LogFilter, LogStatus, LogType, PushLog, RequestLog, UploadOptions, UploadType};
pub use monitoring::{
    InstanceMonitoring, InstanceStateSample, MonitoringData, NodeMonitoring, NodeStateSample, PartitionUsage,
    Sample,
};
pub use provisioning::{
    DeprovisioningRequest, FinishProvisioningRequest, NodeCertificate, NodeCsr, NodeOutcome,
    StartProvisioningRequest, StartProvisioningResponse,
};
pub use read::{Invalid, MAX_FRAME, Problem, ReadError, Unreadable, read, read_small};
pub use state::{InstanceStateData, MAX_STATE, StateAcceptance, StateRequest, StateResult};
pub use status::{
    CpuInfo, InstanceInfo, InstancesInfo, ItemStatus, NodeInfo, PartitionInfo, ResourceInfo, RuntimeInfo,
    UnitConfigStatus, UnitStatus,
};
pub use unit_config::{
    AlertRulePercents, AlertRulePoints, AlertRules, NodeConfig, PartitionAlertRule, ResourceRatios,
    UnitConfig,
};
pub use write::{WriteError, write};

// Tests inside the crate use the same samples as those outside, which name the crate.
#[cfg(test)]
extern crate self as aos_cloud_protocol;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
