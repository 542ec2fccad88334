//! What the kernel tells of chains, rules and objects that are there: the requests and their answers.

use super::super::netlink::{DUMP, Message, Received, attribute, attributes, be64, text};
use super::{MARK, Object, message};

/// Asks for the chains of all tables.
pub fn list_chains() -> Message {
    message(4, DUMP)
}

/// Table and name of a chain in an answer.
pub fn chain_of<'a>(message: &Received<'a>) -> Option<(&'a str, &'a str)> {
    let body = message.body.get(4..)?;
    Some((text(body, 1)?, text(body, 3)?))
}

/// Asks for the rules of a table.
pub fn list_rules(table: &str) -> Message {
    let mut request = message(7, DUMP);
    request.put_text(1, table);
    request
}

/// What has to be known of a rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRule {
    /// Its chain.
    pub chain: String,
    /// Its number.
    pub handle: u64,
    /// Made by this program.
    pub ours: bool,
    /// Chains it leads to.
    pub targets: Vec<String>,
    /// It hides senders.
    pub masquerades: bool,
}

/// A rule in an answer.
pub fn rule_of(message: &Received<'_>, table: &str) -> Option<FoundRule> {
    let body = message.body.get(4..)?;
    if text(body, 1)? != table {
        return None;
    }
    let mut targets = Vec::new();
    let mut masquerades = false;
    for (_, expression) in attributes(attribute(body, 4).unwrap_or_default()) {
        match text(expression, 1) {
            Some("masq") => masquerades = true,
            Some("immediate") => {
                let data = attribute(expression, 2).and_then(|data| attribute(data, 2));
                let target = data.and_then(|data| attribute(data, 2)).and_then(|verdict| text(verdict, 2));
                targets.extend(target.map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(FoundRule {
        chain: text(body, 2)?.to_owned(),
        handle: be64(body, 3)?,
        ours: attribute(body, 7) == Some(MARK),
        targets,
        masquerades,
    })
}

/// Asks for the objects of a kind in a table; with `reset` they start at zero again.
pub fn list_objects(table: &str, kind: Object, reset: bool) -> Message {
    let mut request = message(if reset { 21 } else { 19 }, DUMP);
    request.put_text(1, table).put_be32(3, kind as u32);
    request
}

/// Name of an object in an answer.
pub fn object_of<'a>(message: &Received<'a>, table: &str, kind: Object) -> Option<&'a str> {
    let body = message.body.get(4..)?;
    let fits = text(body, 1)? == table && attribute(body, 3)? == (kind as u32).to_be_bytes();
    text(body, 2).filter(|_| fits)
}

/// Name and bytes of a counter in an answer.
pub fn counter_of<'a>(message: &Received<'a>, table: &str) -> Option<(&'a str, u64)> {
    let name = object_of(message, table, Object::Counter)?;
    let bytes = be64(attribute(message.body.get(4..)?, 4)?, 1)?;
    Some((name, bytes))
}
