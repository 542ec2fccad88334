//! Certificates for a Unit that cannot open a session any more.
//!
//! Who asks proves to be the Unit: with the key of its `offline` certificate, which lives longest, or with
//! an operator's one-time token. A challenge is good for minutes and is not remembered: it carries its end
//! and our mark, and a request that is repeated has the answer of the first. Deprovisioned Units and revoked
//! certificates get nothing. Everything issued here is in the audit trail.

use aos_cloud_fleet::{Reason, Recorded, TOKEN_LIFE, also_due, may_recover};
use aos_cloud_pki::{PkiError, signed_by};
use aos_cloud_store::{AuditEntry, Certificate, RecordedLife, Store, Unit, Work, now_micros};
use aos_recovery_protocol::{
    CertificateOf, Certificates, CertificatesRequest, CsrOf, MAX_CSR, MAX_REQUESTS, Named, RefusedOf, listed,
    stated,
};
use aws_lc_rs::rand;

use crate::certificates::{Signed, Wish, grant};
use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::logs::hash;

const MAX_SYSTEM_ID: usize = 64;
const REFUSED: FlowError = FlowError::Forbidden("this does not prove to be a Unit in service");

/// How a request is proved.
enum Proof {
    /// Signature over the statement.
    Signature { statement: Vec<u8>, signature: Vec<u8> },
    /// Hash of a token, and what it is used for.
    Token { hash: [u8; 32], purpose: Vec<u8> },
}

impl Proof {
    fn word(&self) -> &'static str {
        match self {
            Self::Signature { .. } => "by its offline key",
            Self::Token { .. } => "by an operator's token",
        }
    }

    fn holds(&self, work: &Work<'_>, unit: &Unit, held: &[Certificate]) -> Result<bool, FlowError> {
        match self {
            Self::Signature { statement, signature } => {
                let now = now_micros() / 1_000_000;
                let mut offline = held.iter().filter(|one| one.cert_type == "offline" && one.is_good(now));
                Ok(offline.any(|one| signed_by(&one.chain, statement, signature)))
            }
            Self::Token { hash, purpose } => {
                let token = work.recovery_token(&unit.id, hash)?;
                Ok(token.is_some_and(|token| {
                    token.expires_at > now_micros() && token.used_for.is_none_or(|used| used == *purpose)
                }))
            }
        }
    }
}

impl Flows {
    /// A challenge for a Unit. Whether there is such a Unit is not told.
    pub fn recovery_challenge(&self, system_id: &str) -> Result<String, FlowError> {
        if system_id.is_empty() || system_id.len() > MAX_SYSTEM_ID {
            return Err(FlowError::Invalid("systemId has 1 to 64 bytes".to_owned()));
        }
        let made = self.inner.challenges.make(system_id, now_micros() / 1_000_000);
        made.ok_or(FlowError::Pki(PkiError::Crypto("draw a challenge")))
    }

    /// Makes a token for one recovery of a Unit, good for a day; the one before is worth nothing any more.
    /// Returns the token and its end, microseconds.
    pub async fn recovery_token(&self, unit_id: &str) -> Result<(String, i64), FlowError> {
        let id = unit_id.to_owned();
        self.store.transact(move |work| served(work, &id).map(drop)).await?;
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| FlowError::Pki(PkiError::Crypto("draw a token")))?;
        let token = hex::encode(bytes);
        let expires_at = now_micros() + TOKEN_LIFE * 1_000_000;
        self.store.set_recovery_token(unit_id, hash(&token), expires_at).await?;
        Ok((token, expires_at))
    }

    /// Issues certificates for a Unit that proves who it is.
    pub async fn recover(&self, request: CertificatesRequest) -> Result<Certificates, FlowError> {
        let CertificatesRequest { system_id, challenge, signature, token, requests } = request;
        check(&requests)?;
        if !self.inner.challenges.knows(&challenge, &system_id, now_micros() / 1_000_000) {
            return Err(FlowError::Forbidden("the challenge is unknown or too old"));
        }
        let proof = match (signature, token) {
            (_, Some(token)) => {
                Proof::Token { hash: hash(token.expose()), purpose: listed(&requests).to_vec() }
            }
            (Some(signature), None) => Proof::Signature {
                statement: stated(&challenge, &system_id, &requests),
                signature: hex::decode(signature).map_err(|_| REFUSED)?,
            },
            (None, None) => return Err(REFUSED),
        };
        let id = system_id.clone();
        // Whoever proves nothing gets no signature of ours.
        let (unit, proof, requests, refused) = self
            .store
            .transact(move |work| {
                let unit = proved(work, &id, &proof)?;
                let held = work.certificates(&unit.id)?;
                let (good, bad): (Vec<_>, Vec<_>) =
                    requests.into_iter().partition(|request| is_its_own(request, &held));
                Ok::<_, FlowError>((unit, proof, good, bad))
            })
            .await?;
        let wish = |one: CsrOf| Wish { node_id: one.node, cert_type: one.cert_type, csr: one.csr };
        let signed = self.sign(system_id, requests.into_iter().map(wish).collect()).await?;
        let percent = self.inner.patience.renew_at_percent.max(1);
        let mut answer =
            issue_recovered(&self.store, unit.system_uid.clone(), proof, signed, percent).await?;
        answer.refused.extend(refused.into_iter().map(|one| RefusedOf {
            cert_type: one.cert_type,
            node: one.node,
            reason: "what the node proved with is no certificate of it, or was revoked".to_owned(),
        }));
        tracing::info!(unit = unit.system_uid, "recovered {} certificates", answer.certificates.len());
        for one in &answer.refused {
            tracing::warn!(
                unit = unit.system_uid,
                "{} of node '{}' is not recovered: {}",
                one.cert_type,
                one.node,
                one.reason
            );
        }
        Ok(answer)
    }
}

/// Whether a node that asked the main node proved with a certificate of its own.
fn is_its_own(request: &CsrOf, held: &[Certificate]) -> bool {
    let same = |serial: &String, one: &Certificate| {
        one.node_id == request.node && one.serial.trim_start_matches('0') == serial.trim_start_matches('0')
    };
    request.proved_by.as_ref().is_none_or(|serial| held.iter().any(|one| same(serial, one)))
}

fn check(requests: &[CsrOf]) -> Result<(), FlowError> {
    let mut seen = std::collections::HashSet::new();
    let distinct = requests.iter().all(|one| seen.insert((&one.cert_type, &one.node)));
    let small = requests.iter().all(|one| one.csr.len() <= MAX_CSR);
    if requests.is_empty() || requests.len() > MAX_REQUESTS || !distinct || !small {
        return Err(FlowError::Invalid(
            "1 to 80 requests of at most 16 KiB, one for each type and node".into(),
        ));
    }
    Ok(())
}

/// The Unit, if it is in service and the proof holds.
fn proved(work: &Work<'_>, system_id: &str, proof: &Proof) -> Result<Unit, FlowError> {
    let unit = work.unit(system_id)?.filter(|unit| unit.system_uid == system_id && unit.provisioned);
    let unit = unit.ok_or(REFUSED)?;
    let held = work.certificates(&unit.id)?;
    if proof.holds(work, &unit, &held)? { Ok(unit) } else { Err(REFUSED) }
}

async fn issue_recovered(
    store: &Store,
    system_id: String,
    proof: Proof,
    signed: Vec<(Wish, Signed)>,
    percent: u8,
) -> Result<Certificates, FlowError> {
    store
        .transact(move |work| {
            let unit = proved(work, &system_id, &proof)?;
            let now = now_micros() / 1_000_000;
            let held = work.certificates(&unit.id)?;
            let lives = work.recorded_lives(&unit.id)?;
            let recorded: Vec<Recorded<'_>> = lives.iter().map(recorded).collect();
            let mut answer = Certificates::default();
            let asked: Vec<(String, String)> =
                signed.iter().map(|(wish, _)| (wish.node_id.clone(), wish.cert_type.clone())).collect();
            for (wish, outcome) in signed {
                let again = outcome
                    .as_ref()
                    .is_ok_and(|new| held.iter().any(|old| old.key_hash == new.key_hash && old.is_good(now)));
                let allowed = if again {
                    Ok(())
                } else {
                    may_recover(&recorded, &wish.node_id, &wish.cert_type, now)
                        .map_err(|refusal| Reason(refusal.to_string()))
                };
                match allowed.and(outcome) {
                    Ok(new) => answer.certificates.push(CertificateOf {
                        certificate_chain: grant(work, &unit, &held, new)?.chain,
                        cert_type: wish.cert_type,
                        node: wish.node_id,
                    }),
                    Err(reason) => answer.refused.push(RefusedOf {
                        cert_type: wish.cert_type,
                        node: wish.node_id,
                        reason: reason.0,
                    }),
                }
            }
            let asked: Vec<(&str, &str)> =
                asked.iter().map(|(node, kind)| (node.as_str(), kind.as_str())).collect();
            answer.due = also_due(&recorded, &asked, percent, now)
                .into_iter()
                .map(|(node, kind)| Named { cert_type: kind.to_owned(), node: node.to_owned() })
                .collect();
            if let Proof::Token { purpose, .. } = &proof
                && !answer.certificates.is_empty()
            {
                work.use_recovery_token(&unit.id, purpose)?;
            }
            work.audit(&AuditEntry {
                actor: format!("Unit {} {}", unit.system_uid, proof.word()),
                action: "recovered",
                object: unit.system_uid.clone(),
                detail: format!(
                    "{} certificates, {} refused",
                    answer.certificates.len(),
                    answer.refused.len()
                ),
            })?;
            Ok(answer)
        })
        .await
}

pub(crate) fn recorded(life: &RecordedLife) -> Recorded<'_> {
    Recorded {
        node_id: &life.node_id,
        cert_type: &life.cert_type,
        not_before: life.not_before,
        not_after: life.not_after,
        issued_at: life.issued_at / 1_000_000,
        revoked: life.revoked,
    }
}
