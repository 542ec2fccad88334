//! Kinds of requests to nodes: which answer belongs to which request, and how long it may take.

use std::time::Duration;

use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;

const SHORT: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_mins(5);

/// Of a request and its answer; requests of different kinds do not wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Start,
    CertTypes,
    Finish,
    Deprovision,
    Pause,
    Resume,
    CreateKey,
    ApplyCert,
    RootCerts,
}

impl Kind {
    pub(super) fn of_request(request: &Request) -> Self {
        match request {
            Request::StartProvisioningRequest(_) => Self::Start,
            Request::GetCertTypesRequest(_) => Self::CertTypes,
            Request::FinishProvisioningRequest(_) => Self::Finish,
            Request::DeprovisionRequest(_) => Self::Deprovision,
            Request::PauseNodeRequest(_) => Self::Pause,
            Request::ResumeNodeRequest(_) => Self::Resume,
            Request::CreateKeyRequest(_) => Self::CreateKey,
            Request::ApplyCertRequest(_) => Self::ApplyCert,
            Request::UpdateRootCertsRequest(_) => Self::RootCerts,
        }
    }

    pub(super) fn of_answer(message: &Message) -> Option<Self> {
        match message {
            Message::NodeInfo(_) => None,
            Message::StartProvisioningResponse(_) => Some(Self::Start),
            Message::CertTypesResponse(_) => Some(Self::CertTypes),
            Message::FinishProvisioningResponse(_) => Some(Self::Finish),
            Message::DeprovisionResponse(_) => Some(Self::Deprovision),
            Message::PauseNodeResponse(_) => Some(Self::Pause),
            Message::ResumeNodeResponse(_) => Some(Self::Resume),
            Message::CreateKeyResponse(_) => Some(Self::CreateKey),
            Message::ApplyCertResponse(_) => Some(Self::ApplyCert),
            Message::UpdateRootCertsResponse(_) => Some(Self::RootCerts),
        }
    }

    pub(super) fn time(self) -> Duration {
        match self {
            Self::Start | Self::Finish | Self::Deprovision => LONG,
            _ => SHORT,
        }
    }
}

/// Whether an answer is about the certificate type that was asked for. A late one to an order given up earlier
/// has the same kind; nodes that name no type are believed.
pub(super) fn fits(request: &Request, answer: &Message) -> bool {
    let (asked, told) = match (request, answer) {
        (Request::CreateKeyRequest(request), Message::CreateKeyResponse(answer)) => {
            (&request.r#type, Some(&answer.r#type))
        }
        (Request::ApplyCertRequest(request), Message::ApplyCertResponse(answer)) => {
            (&request.r#type, answer.cert_info.as_ref().map(|cert| &cert.r#type))
        }
        _ => return true,
    };
    told.is_none_or(|told| told.is_empty() || told == asked)
}
