//! Renewal of certificates: `renewCertificatesNotification`, `issueUnitCertificates`,
//! `issuedUnitCertificates`, `installUnitCertificatesConfirmation`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aos_cloud_fleet::{CertificateRefusal, Held, RenewalState, may_recover, may_renew, renewal_over};
use aos_cloud_pki::CertType;
use aos_cloud_protocol::{
    AosIdentity, Body, CertificateToRenew, CertificateType, IdentityType,
    InstallUnitCertificatesConfirmation, IssueUnitCertificates, IssuedCertificate, IssuedUnitCertificates,
    NodeSecret, RenewCertificatesNotification, Secret, UnitSecrets,
};
use aos_cloud_store::{
    Certificate, NewCertificate, Received, RecordedLife, Renewal, RenewalCertificate, Unit, Work, brief,
    now_micros,
};
use jiff::Timestamp;
use uuid::Uuid;

use crate::certificates::{Wish, affordable, grant, plain_serial};
use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::handlers::Message;
use crate::recovery::recorded;

const SLOT: &str = "renewCertificatesNotification";

/// What an operator wants renewed.
#[derive(Clone, Default)]
pub struct NewRenewal {
    /// Types; empty means all that the Unit holds.
    pub types: Vec<CertType>,
    /// Nodes; empty means all.
    pub nodes: Vec<String>,
    /// Owner passwords by node, for nodes whose password is not known or has changed.
    pub secrets: BTreeMap<String, String>,
    /// What the cloud found due by itself.
    pub due: Option<Due>,
}

/// A renewal that the cloud starts by itself.
#[derive(Clone)]
pub struct Due {
    /// Exactly these, as (node, type); those of nodes without known password are left out.
    pub pairs: BTreeSet<(String, String)>,
    /// How long to wait for the Unit.
    pub patience: Duration,
}

impl Flows {
    /// Has a Unit renew certificates. A renewal that is under way ends.
    pub async fn renew_certificates(&self, unit_id: &str, new: NewRenewal) -> Result<Renewal, FlowError> {
        let (unit_id, flows) = (unit_id.to_owned(), self.clone());
        self.store
            .transact(move |work| {
                let unit = served(work, &unit_id)?;
                let mut chosen = chosen(work.certificates(&unit.id)?, &new);
                let mut secrets = flows.passwords(work, &unit)?;
                if new.due.is_some() {
                    chosen.retain(|one| secrets.contains_key(&one.node_id));
                }
                if chosen.is_empty() {
                    let nodes: Vec<String> = new.nodes.iter().map(|node| format!("'{node}'")).collect();
                    let of = if nodes.is_empty() {
                        String::new()
                    } else {
                        format!(" of node {}", nodes.join(", "))
                    };
                    let text = format!("the Unit holds no such certificates{of}");
                    return Err(FlowError::Invalid(text));
                }
                let patience = new.due.as_ref().map_or(flows.inner.patience.renewal, |due| due.patience);
                for (node, password) in new.secrets {
                    flows.keep_password(work, &unit, &node, &password)?;
                    secrets.insert(node, password);
                }
                let mut nodes: Vec<&str> = chosen.iter().map(|one| one.node_id.as_str()).collect();
                nodes.sort_unstable();
                nodes.dedup();
                if let Some(node) = nodes.iter().find(|node| !secrets.contains_key(**node)) {
                    let text =
                        format!("the owner password of node '{node}' is not known: give it in secrets");
                    return Err(FlowError::Invalid(text));
                }
                if let Some(open) = work.open_renewal(&unit.id)? {
                    work.end_flow(&open.id, "replaced by a newer renewal")?;
                }
                let renewal = Renewal {
                    id: Uuid::new_v4().to_string(),
                    state: "waiting".to_owned(),
                    reason: None,
                    created_at: now_micros(),
                    deadline: Some(Self::deadline(patience)),
                    finished_at: None,
                    certificates: chosen.iter().map(asked).collect(),
                };
                work.put_renewal(&unit.id, &renewal)?;
                let secret = |node: &&str| NodeSecret {
                    node: node_identity(node),
                    secret: Secret::new(secrets.get(*node).cloned().unwrap_or_default()),
                };
                let body = Body::RenewCertificatesNotification(RenewCertificatesNotification {
                    certificates: chosen.iter().map(to_renew).collect(),
                    unit_secrets: UnitSecrets {
                        nodes: nodes.iter().map(secret).collect(),
                        ..UnitSecrets::default()
                    },
                });
                flows.push(work, &unit, body, Some(&renewal.id), Some(SLOT.to_owned()))?;
                Ok(renewal)
            })
            .await
    }

    /// A Unit asks for certificates: what it may have is issued, the rest is noted.
    pub(crate) async fn take_requests(
        &self,
        message: Message<IssueUnitCertificates>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let (id, flows) = (unit_id.clone(), self.clone());
        let requests = body.requests.into_iter().map(|request| Wish {
            node_id: request.node.node_id().map(|node| node.to_string()).unwrap_or_default(),
            cert_type: request.kind.as_str().to_owned(),
            csr: request.csr,
        });
        let requests: Vec<Wish> = requests.collect();
        // Whatever is refused anyway is not worth a signature.
        let (system_id, wishes, mut refused) = self
            .store
            .transact(move |work| {
                let unit = served(work, &id)?;
                let (held, open) = (work.certificates(&id)?, work.open_renewal(&id)?);
                let (mut wishes, mut refused) = (Vec::new(), Vec::new());
                for wish in requests {
                    match permitted(&held, open.as_ref(), &wish) {
                        Ok(()) => wishes.push(wish),
                        Err(reason) => refused.push((wish, reason.to_string())),
                    }
                }
                let (wishes, dear) = affordable(work, &unit, wishes)?;
                refused.extend(dear);
                Ok::<_, FlowError>((unit.system_uid, wishes, refused))
            })
            .await?;
        let mut signed = Vec::with_capacity(wishes.len());
        for (wish, outcome) in self.sign(system_id, wishes).await? {
            match outcome {
                Ok(certificate) => signed.push((wish, certificate)),
                Err(reason) => refused.push((wish, reason.0)),
            }
        }
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let mut open = work.open_renewal(&unit.id)?;
                let certificates = issue(work, &unit, open.as_mut(), signed, &mut refused)?;
                let mut noted = Vec::with_capacity(refused.len());
                for (wish, reason) in refused {
                    noted.push(brief(&format!("{} of node '{}': {reason}", wish.cert_type, wish.node_id)));
                    // What was asked for once too often does not undo what was issued.
                    let issued = certificates.iter().any(|one| {
                        one.node.key() == Some(&wish.node_id) && one.kind.as_str() == wish.cert_type
                    });
                    if !issued && let Some(entry) = entry_of(open.as_mut(), &wish.node_id, &wish.cert_type) {
                        RenewalState::Refused.as_str().clone_into(&mut entry.state);
                        entry.reason = Some(reason);
                    }
                }
                if let Some(first) = noted.first() {
                    tracing::warn!(unit_id, "{} certificates are refused, first {first}", noted.len());
                    work.note_all_invalid(&unit.id, "issueUnitCertificates", &noted)?;
                }
                let exchange = open.as_ref().map(|renewal| renewal.id.clone()).or(correlation_id);
                if let Some(renewal) = open {
                    keep(work, &unit, renewal)?;
                }
                // A Unit that asks again before it got the answer needs the newer one only.
                let named =
                    |one: &IssuedCertificate| format!("/{}/{}", one.node.key().unwrap_or_default(), one.kind);
                let slot = certificates.iter().map(named).collect::<String>();
                let body = Body::IssuedUnitCertificates(IssuedUnitCertificates { certificates });
                let slot = Some(format!("issuedUnitCertificates{slot}"));
                flows.push(work, &unit, body, exchange.as_deref(), slot)?;
                Ok(())
            })
            .await
    }

    /// A Unit tells which certificates it has installed.
    pub(crate) async fn take_installed(
        &self,
        message: Message<InstallUnitCertificatesConfirmation>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, body, .. } = message;
        let grace = Self::deadline(self.inner.patience.old_certificate);
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let held = work.certificates(&unit.id)?;
                let mut open = work.open_renewal(&unit.id)?;
                let mut noted = Vec::new();
                for told in body.certificates {
                    let node = told.node.node_id().map(|node| node.to_string()).unwrap_or_default();
                    let kind = told.kind.as_str();
                    let serial = plain_serial(&told.serial);
                    let known = held
                        .iter()
                        .any(|one| one.node_id == node && one.cert_type == kind && one.serial == serial);
                    let error = told.error_info.map(|info| brief(&info.message));
                    let entry = entry_of(open.as_mut(), &node, kind);
                    let failure = match (error, known) {
                        (None, true) => None,
                        (None, false) => {
                            Some("the serial number is of no certificate of the Unit".to_owned())
                        }
                        (Some(text), _) => Some(text),
                    };
                    let Some(reason) = failure else {
                        work.supersede(&unit.id, &node, kind, &serial, grace)?;
                        if let Some(entry) = entry {
                            RenewalState::Installed.as_str().clone_into(&mut entry.state);
                            entry.new_serial = Some(serial);
                        }
                        continue;
                    };
                    // What is decided stays so: a late failure must not revoke what is installed.
                    if let Some(entry) = entry.filter(|entry| under_way(entry)) {
                        tracing::warn!(unit_id, "{kind} of node '{node}' is not installed: {reason}");
                        if let Some(unused) = &entry.new_serial {
                            work.revoke_serial(&unit.id, unused)?;
                        }
                        RenewalState::Failed.as_str().clone_into(&mut entry.state);
                        entry.reason = Some(reason);
                    } else {
                        noted.push(brief(&format!("{kind} of node '{node}': {reason}")));
                    }
                }
                if let Some(first) = noted.first() {
                    tracing::warn!(unit_id, "{} confirmations have no effect, first {first}", noted.len());
                    work.note_all_invalid(&unit.id, "installUnitCertificatesConfirmation", &noted)?;
                }
                open.map_or(Ok(()), |renewal| keep(work, &unit, renewal))
            })
            .await
    }
}

/// Certificates of a Unit that an operator means, the newest of each type and node.
fn chosen(held: Vec<Certificate>, new: &NewRenewal) -> Vec<Certificate> {
    let due = |one: &Certificate| {
        let pair = (one.node_id.clone(), one.cert_type.clone());
        new.due.as_ref().is_none_or(|due| due.pairs.contains(&pair))
    };
    let wanted = |one: &Certificate| {
        due(one)
            && (new.nodes.is_empty() || new.nodes.contains(&one.node_id))
            && (new.types.is_empty() || new.types.iter().any(|kind| kind.as_str() == one.cert_type))
    };
    // Sorted by node, type and age: of equal keys the last one stays.
    let newest: BTreeMap<(String, String), Certificate> = held
        .into_iter()
        .filter(wanted)
        .map(|one| ((one.node_id.clone(), one.cert_type.clone()), one))
        .collect();
    newest.into_values().collect()
}

fn asked(one: &Certificate) -> RenewalCertificate {
    RenewalCertificate {
        node_id: one.node_id.clone(),
        cert_type: one.cert_type.clone(),
        old_serial: Some(one.serial.clone()),
        new_serial: None,
        state: RenewalState::Asked.as_str().to_owned(),
        reason: None,
    }
}

fn to_renew(one: &Certificate) -> CertificateToRenew {
    CertificateToRenew {
        kind: CertificateType::from(one.cert_type.clone()),
        node: node_identity(&one.node_id),
        serial: Some(one.serial.clone()),
        valid_till: Timestamp::from_second(one.not_after).ok(),
    }
}

pub(crate) fn node_identity(node: &str) -> AosIdentity {
    AosIdentity::by_codename(node).with_type(IdentityType::Node)
}

fn under_way(one: &RenewalCertificate) -> bool {
    matches!(RenewalState::parse(&one.state), RenewalState::Asked | RenewalState::Issued)
}

fn permitted(held: &[Certificate], open: Option<&Renewal>, wish: &Wish) -> Result<(), CertificateRefusal> {
    let asked = open.is_some_and(|renewal| {
        let mut named = renewal.certificates.iter();
        named.any(|one| one.node_id == wish.node_id && one.cert_type == wish.cert_type && under_way(one))
    });
    let held: Vec<Held<'_>> = held
        .iter()
        .map(|one| Held { node_id: &one.node_id, cert_type: &one.cert_type, not_after: one.not_after })
        .collect();
    may_renew(asked, &held, &wish.node_id, &wish.cert_type, now_micros() / 1_000_000)
}

/// Records what was signed, unless things have changed since.
fn issue(
    work: &mut Work<'_>,
    unit: &Unit,
    mut open: Option<&mut Renewal>,
    signed: Vec<(Wish, NewCertificate)>,
    refused: &mut Vec<(Wish, String)>,
) -> Result<Vec<IssuedCertificate>, FlowError> {
    let held = work.certificates(&unit.id)?;
    let lives = work.recorded_lives(&unit.id)?;
    let mut issued = Vec::with_capacity(signed.len());
    for (wish, certificate) in signed {
        let asked = entry_of(open.as_deref_mut(), &wish.node_id, &wish.cert_type).is_some();
        let again = held.iter().any(|old| old.key_hash == certificate.key_hash);
        let allowed = permitted(&held, open.as_deref(), &wish)
            .and_then(|()| if asked || again { Ok(()) } else { few(&lives, &wish) });
        if let Err(reason) = allowed {
            refused.push((wish, reason.to_string()));
            continue;
        }
        let granted = grant(work, unit, &held, certificate)?;
        if let Some(entry) = entry_of(open.as_deref_mut(), &wish.node_id, &wish.cert_type) {
            // A Unit that makes its key anew will not use the certificate for the old one.
            if let Some(unused) = entry.new_serial.as_ref().filter(|serial| **serial != granted.serial) {
                work.revoke_serial(&unit.id, unused)?;
            }
            RenewalState::Issued.as_str().clone_into(&mut entry.state);
            entry.new_serial = Some(granted.serial);
        }
        issued.push(IssuedCertificate {
            kind: CertificateType::from(wish.cert_type),
            node: node_identity(&wish.node_id),
            certificate_chain: granted.chain,
        });
    }
    Ok(issued)
}

/// A Unit that asks by itself gets no more certificates in a day than one that recovers.
fn few(lives: &[RecordedLife], wish: &Wish) -> Result<(), CertificateRefusal> {
    let recorded: Vec<_> = lives.iter().map(recorded).collect();
    may_recover(&recorded, &wish.node_id, &wish.cert_type, now_micros() / 1_000_000)
}

fn entry_of<'a>(
    renewal: Option<&'a mut Renewal>,
    node: &str,
    cert_type: &str,
) -> Option<&'a mut RenewalCertificate> {
    renewal?.certificates.iter_mut().find(|one| one.node_id == node && one.cert_type == cert_type)
}

/// Keeps a renewal; it ends when nothing is under way any more.
fn keep(work: &mut Work<'_>, unit: &Unit, mut renewal: Renewal) -> Result<(), FlowError> {
    let states = renewal.certificates.iter().map(|one| RenewalState::parse(&one.state));
    if let Some(all) = renewal_over(states) {
        if all { "done" } else { "failed" }.clone_into(&mut renewal.state);
        renewal.reason = (!all).then(|| "not all certificates were renewed".to_owned());
        renewal.deadline = None;
        renewal.finished_at = Some(now_micros());
    } else {
        renewal.reason = None;
    }
    Ok(work.put_renewal(&unit.id, &renewal)?)
}
