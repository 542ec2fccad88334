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
    CertificateOf, Certificates, CertificatesRequest, CsrOf, MAX_CSR, MAX_REQUESTS, Named, RefusedOf,
    listing, statement,
};
use aws_lc_rs::{digest, hmac, rand};

use crate::certificates::{Signed, Wish, grant};
use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::logs::hash;

/// How long a challenge is good, seconds.
const CHALLENGE_LIFE: i64 = 300;
const NONCE: usize = 16;
const MARK: usize = 32;
const MAX_SYSTEM_ID: usize = 64;
const REFUSED: FlowError = FlowError::Forbidden("this does not prove to be a Unit in service");

/// Makes and knows challenges. Those of a former run are unknown.
pub(crate) struct Challenges(Option<hmac::Key>);

impl Challenges {
    /// With a key of its own.
    pub(crate) fn new() -> Self {
        let mut key = [0; MARK];
        Self(rand::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    fn make(&self, system_id: &str, now: i64) -> Result<String, FlowError> {
        let mut text = Vec::with_capacity(8 + NONCE + MARK);
        text.extend_from_slice(&(now + CHALLENGE_LIFE).to_be_bytes());
        let no_numbers = || FlowError::Pki(PkiError::Crypto("draw a challenge"));
        let key = self.0.as_ref().ok_or_else(no_numbers)?;
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).map_err(|_| no_numbers())?;
        text.extend_from_slice(&nonce);
        let mark = hmac::sign(key, &marked(&text, system_id));
        text.extend_from_slice(mark.as_ref());
        Ok(hex::encode(text))
    }

    fn knows(&self, challenge: &str, system_id: &str, now: i64) -> bool {
        let Ok(bytes) = hex::decode(challenge) else { return false };
        let Some((text, mark)) = bytes.split_at_checked(8 + NONCE) else { return false };
        let Some(end) = text.first_chunk().map(|end| i64::from_be_bytes(*end)) else { return false };
        let ours = |key| hmac::verify(key, &marked(text, system_id), mark).is_ok();
        end >= now && self.0.as_ref().is_some_and(ours)
    }
}

fn marked(text: &[u8], system_id: &str) -> Vec<u8> {
    [text, system_id.as_bytes()].concat()
}

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
        self.inner.challenges.make(system_id, now_micros() / 1_000_000)
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
        let listed = digest::digest(&digest::SHA256, &listing(&requests));
        let proof = match (signature, token) {
            (_, Some(token)) => {
                Proof::Token { hash: hash(token.expose()), purpose: listed.as_ref().to_vec() }
            }
            (Some(signature), None) => Proof::Signature {
                statement: statement(&challenge, &system_id, listed.as_ref()),
                signature: hex::decode(signature).map_err(|_| REFUSED)?,
            },
            (None, None) => return Err(REFUSED),
        };
        let id = system_id.clone();
        // Whoever proves nothing gets no signature of ours.
        let (unit, proof) = self
            .store
            .transact(move |work| {
                let unit = proved(work, &id, &proof)?;
                Ok::<_, FlowError>((unit, proof))
            })
            .await?;
        let wish = |one: CsrOf| Wish { node_id: one.node, cert_type: one.cert_type, csr: one.csr };
        let signed = self.sign(system_id, requests.into_iter().map(wish).collect()).await?;
        let percent = self.inner.patience.renew_at_percent.max(1);
        let answer = issue_recovered(&self.store, unit.system_uid.clone(), proof, signed, percent).await?;
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
                        .map_err(|reason| Reason(reason.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_for_one_unit_and_some_minutes() {
        let challenges = Challenges::new();
        let made = challenges.make("unit", 1000).unwrap();
        assert!(challenges.knows(&made, "unit", 1000 + CHALLENGE_LIFE));
        assert!(!challenges.knows(&made, "unit", 1001 + CHALLENGE_LIFE));
        assert!(!challenges.knows(&made, "other", 1000));
        assert!(!Challenges::new().knows(&made, "unit", 1000), "of another run");
        assert_ne!(made, challenges.make("unit", 1000).unwrap());
        for bad in ["", "00", "xyz", &made[2..], &made[..made.len() - 2]] {
            assert!(!challenges.knows(bad, "unit", 0), "{bad}");
        }
    }
}
