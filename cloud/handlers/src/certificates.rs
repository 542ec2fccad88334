//! Issuing certificates for Units inside flows, by the same rules as at registration.
//!
//! A Unit can ask as often as it likes, so what is signed for it is bounded: one certificate of a type and
//! node a message, and 16 a day or in a life that is shorter. The record of what was issued is kept for good.

use aos_cloud_fleet::{Reason, window};
use aos_cloud_pki::{CertType, PkiError, Request};
use aos_cloud_store::{Certificate, Holder, NewCertificate, Unit, Work, now_micros};

use crate::error::FlowError;
use crate::flows::Flows;

/// Certificates of one type that are issued for one node in a [`window`] at most.
const MOST_ISSUED: i64 = 16;

/// A request for a certificate of a node.
pub(crate) struct Wish {
    pub(crate) node_id: String,
    pub(crate) cert_type: String,
    pub(crate) csr: String,
}

/// A wish that is not granted, and why.
pub(crate) type Refused = (Wish, String);

/// What became of a wish: a certificate, or the reason against it.
pub(crate) type Signed = Result<NewCertificate, Reason>;

/// A certificate for a wish.
pub(crate) struct Granted {
    pub(crate) serial: String,
    pub(crate) chain: String,
}

impl Flows {
    /// Signs the requests of a Unit. Each is signed or has the reason against it; an error is ours.
    pub(crate) async fn sign(
        &self,
        system_id: String,
        wishes: Vec<Wish>,
    ) -> Result<Vec<(Wish, Signed)>, FlowError> {
        let flows = self.clone();
        // Checking and signing takes milliseconds each.
        let signing = tokio::task::spawn_blocking(move || {
            let sign = |wish: Wish| match flows.sign_one(&system_id, &wish) {
                Ok(certificate) => Ok((wish, Ok(certificate))),
                Err(PkiError::Refused(reason)) => Ok((wish, Err(Reason(reason)))),
                Err(error) => Err(FlowError::Pki(error)),
            };
            wishes.into_iter().map(sign).collect()
        });
        signing.await.map_err(|_| FlowError::Interrupted)?
    }

    fn sign_one(&self, system_id: &str, wish: &Wish) -> Result<NewCertificate, PkiError> {
        let cert_type: CertType = wish.cert_type.parse()?;
        let request = Request::from_pem(&wish.csr)?;
        let now = now_micros() / 1_000_000;
        let inner = &self.inner;
        let issued = inner.pki.issue_unit(&request, system_id, cert_type, &inner.addresses.discovery, now)?;
        Ok(NewCertificate {
            holder: Holder::Nobody,
            cert_type: wish.cert_type.clone(),
            node_id: wish.node_id.clone(),
            issuer: issued.issuer_der,
            serial: issued.serial,
            key_hash: issued.key_hash,
            chain: issued.chain_pem,
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    }
}

/// Splits wishes into those that may be signed and those that ask for too much, with the reason.
pub(crate) fn affordable(
    work: &Work<'_>,
    unit: &Unit,
    wishes: Vec<Wish>,
) -> Result<(Vec<Wish>, Vec<Refused>), FlowError> {
    let (mut taken, mut refused): (Vec<Wish>, Vec<Refused>) = (Vec::new(), Vec::new());
    let held = work.certificates(&unit.id)?;
    for wish in wishes {
        let same = |one: &Wish| one.node_id == wish.node_id && one.cert_type == wish.cert_type;
        let alike = held.iter().filter(|one| one.node_id == wish.node_id && one.cert_type == wish.cert_type);
        let seconds = alike.map(|one| window(one.not_before, one.not_after)).min();
        let seconds = seconds.unwrap_or_else(|| window(0, i64::MAX));
        let since = now_micros().saturating_sub(seconds.saturating_mul(1_000_000));
        let reason = if taken.iter().any(same) {
            "asked for twice in one message"
        } else if wish.cert_type.parse::<CertType>().is_err() {
            "no such type of certificate"
        } else if work.issued_since(&unit.id, &wish.node_id, &wish.cert_type, since)? >= MOST_ISSUED {
            "too many certificates of this type were issued for this node lately"
        } else {
            taken.push(wish);
            continue;
        };
        refused.push((wish, reason.to_owned()));
    }
    Ok((taken, refused))
}

/// Records a signed certificate; a good one for the same key, type and node is given instead, so that a
/// repeated request has the result of the first.
pub(crate) fn grant(
    work: &mut Work<'_>,
    unit: &Unit,
    held: &[Certificate],
    mut signed: NewCertificate,
) -> Result<Granted, FlowError> {
    let now = now_micros() / 1_000_000;
    let same = held.iter().find(|old| {
        old.key_hash == signed.key_hash
            && old.cert_type == signed.cert_type
            && old.node_id == signed.node_id
            && old.is_good(now)
    });
    if let Some(old) = same {
        return Ok(Granted { serial: old.serial.clone(), chain: old.chain.clone() });
    }
    signed.holder = Holder::Unit(unit.id.clone());
    work.add_certificate(&signed)?;
    Ok(Granted { serial: signed.serial, chain: signed.chain })
}

/// A serial number as the record has it, whatever digits a Unit writes for it; no number is empty.
pub(crate) fn plain_serial(told: &str) -> String {
    let digits = told.trim();
    let even = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    hex::decode(even).map(|bytes| aos_cloud_pki::serial_text(&bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::plain_serial;

    #[test]
    fn serial_numbers_are_compared_by_value() {
        for told in ["0a1b", "A1B", "a1b", " 000A1B\n"] {
            assert_eq!(plain_serial(told), "0a1b");
        }
        assert_eq!(plain_serial(""), "");
        assert_eq!(plain_serial("0x12"), "");
    }
}
