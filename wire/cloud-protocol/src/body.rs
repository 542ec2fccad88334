//! The 26 kinds of messages.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::lenient::{self, FieldError};
use crate::{
    Ack, Alerts, BlobUrls, DeprovisioningRequest, DesiredStatus, FinishProvisioningRequest,
    InstallUnitCertificatesConfirmation, InstanceStateData, IssueUnitCertificates, IssuedUnitCertificates,
    MonitoringData, Nack, NodeOutcome, OverrideEnvVars, OverrideEnvVarsStatus, PushLog,
    RenewCertificatesNotification, RequestBlobUrls, RequestLog, StartProvisioningRequest,
    StartProvisioningResponse, StateAcceptance, StateRequest, UnitStatus,
};

/// Who sends a kind of message, and which way a reader is turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The Unit sends, the cloud reads.
    UnitToCloud,
    /// The cloud sends, the Unit reads.
    CloudToUnit,
    /// Either sends (`ack`). A reader turned this way takes everything.
    Both,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $variant:ident($content:ty) = $word:literal, $direction:ident;)+) => {
        /// Kind of a message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum MessageType {
            $($(#[$doc])* $variant,)+
        }

        impl MessageType {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Who sends it.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$variant => Direction::$direction,)+ }
            }

            /// The kind of a word; letter case counts.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        /// Content of a message.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "messageType")]
        pub enum Body {
            $($(#[$doc])* #[serde(rename = $word)] $variant($content),)+
        }

        impl Body {
            /// Kind of the message.
            pub const fn message_type(&self) -> MessageType {
                match self { $(Self::$variant(_) => MessageType::$variant,)+ }
            }

            pub(crate) fn read(kind: MessageType, data: Value) -> Result<Self, FieldError> {
                match kind { $(MessageType::$variant => lenient::from_value(data).map(Self::$variant),)+ }
            }

            /// Reads the content from any deserializer.
            pub(crate) fn read_from<'de, D: Deserializer<'de>>(
                kind: MessageType,
                data: D,
            ) -> Result<Self, D::Error> {
                match kind { $(MessageType::$variant => <$content>::deserialize(data).map(Self::$variant),)+ }
            }
        }

    };
}

messages! {
    /// State of a Unit.
    UnitStatus(UnitStatus) = "unitStatus", UnitToCloud;
    /// Samples of nodes and instances.
    MonitoringData(MonitoringData) = "monitoringData", UnitToCloud;
    /// Things that went wrong.
    Alerts(Alerts) = "alerts", UnitToCloud;
    /// Part of requested logs.
    PushLog(PushLog) = "pushLog", UnitToCloud;
    /// What became of overridden variables.
    OverrideEnvVarsStatus(OverrideEnvVarsStatus) = "overrideEnvVarsStatus", UnitToCloud;
    /// Asks where blobs are.
    RequestBlobUrls(RequestBlobUrls) = "requestBlobUrls", UnitToCloud;
    /// An instance has a new state.
    NewState(InstanceStateData) = "newState", UnitToCloud;
    /// Asks for the state of an instance.
    StateRequest(StateRequest) = "stateRequest", UnitToCloud;
    /// Certificate requests for a renewal.
    IssueUnitCertificates(IssueUnitCertificates) = "issueUnitCertificates", UnitToCloud;
    /// What became of new certificates.
    InstallUnitCertificatesConfirmation(InstallUnitCertificatesConfirmation) = "installUnitCertificatesConfirmation", UnitToCloud;
    /// Certificate requests of a node to be provisioned.
    StartProvisioningResponse(StartProvisioningResponse) = "startProvisioningResponse", UnitToCloud;
    /// How provisioning of a node ended.
    FinishProvisioningResponse(NodeOutcome) = "finishProvisioningResponse", UnitToCloud;
    /// How deprovisioning of a node ended.
    DeprovisioningResponse(NodeOutcome) = "deprovisioningResponse", UnitToCloud;
    /// A message was received.
    Ack(Ack) = "ack", Both;
    /// A message cannot be taken now.
    Nack(Nack) = "nack", CloudToUnit;
    /// What a Unit shall be.
    DesiredStatus(DesiredStatus) = "desiredStatus", CloudToUnit;
    /// Asks for logs.
    RequestLog(RequestLog) = "requestLog", CloudToUnit;
    /// Overrides variables of instances.
    OverrideEnvVars(OverrideEnvVars) = "overrideEnvVars", CloudToUnit;
    /// Where blobs are.
    BlobUrls(BlobUrls) = "blobUrls", CloudToUnit;
    /// Puts a state into an instance.
    UpdateState(InstanceStateData) = "updateState", CloudToUnit;
    /// Verdict over a new state.
    StateAcceptance(StateAcceptance) = "stateAcceptance", CloudToUnit;
    /// Certificates are to be renewed.
    RenewCertificatesNotification(RenewCertificatesNotification) = "renewCertificatesNotification", CloudToUnit;
    /// New certificates.
    IssuedUnitCertificates(IssuedUnitCertificates) = "issuedUnitCertificates", CloudToUnit;
    /// Starts provisioning of a node.
    StartProvisioningRequest(StartProvisioningRequest) = "startProvisioningRequest", CloudToUnit;
    /// Ends provisioning of a node.
    FinishProvisioningRequest(FinishProvisioningRequest) = "finishProvisioningRequest", CloudToUnit;
    /// Takes a node out of the Unit.
    DeprovisioningRequest(DeprovisioningRequest) = "deprovisioningRequest", CloudToUnit;
}

impl Body {
    /// Who sends this kind of message.
    pub const fn direction(&self) -> Direction {
        self.message_type().direction()
    }
}

impl MessageType {
    /// True when a receiver acknowledges it: everything but `ack` and `nack`.
    pub const fn is_acknowledged(self) -> bool {
        !matches!(self, Self::Ack | Self::Nack)
    }

    /// True when a reader turned `reader` takes it. Besides its own kinds a cloud tolerates a nack, and a
    /// Unit a `stateRequest`: some peers send them the wrong way round.
    pub fn is_taken_by(self, reader: Direction) -> bool {
        let direction = self.direction();
        direction == reader
            || direction == Direction::Both
            || reader == Direction::Both
            || matches!(
                (self, reader),
                (Self::Nack, Direction::UnitToCloud) | (Self::StateRequest, Direction::CloudToUnit)
            )
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
