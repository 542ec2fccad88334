//! `aos iam certificates|nodes|token`: what the Identity and Access Manager of this node says, as tables or JSON.
//!
//! The answers come from the manager itself, over its status sockets. When it does not run, certificates and
//! tokens can be looked at directly through its configuration file; nothing is changed by that.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use aos_local_status::{self as local, StatusError};
use aos_text_table::{elements, rows, table, text};
use serde_json::{Value, json};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Certificates and how much of their life is over.
    Certificates,
    /// Nodes of the Unit.
    Nodes,
    /// Tokens and their health.
    Token,
}

/// How it is asked for.
#[derive(Debug, PartialEq)]
pub struct Query {
    pub topic: Topic,
    /// JSON rather than tables.
    pub json: bool,
    /// Folder of the status sockets.
    pub run_dir: Option<PathBuf>,
    /// Configuration of the manager, for a look without it.
    pub config: Option<PathBuf>,
}

/// Prints the answer. Ends with an error when a token is not in order, after it has been shown.
pub fn show(query: &Query) -> Result<()> {
    let dir = query.run_dir.clone().unwrap_or_else(local::run_dir);
    let status = match local::read(&dir, "iam") {
        Ok(status) => Some(status),
        Err(StatusError::NotRunning { path, .. })
            if query.topic != Topic::Nodes && query.config.is_some() =>
        {
            eprintln!("the manager does not run (nothing answers on {}); looking directly", path.display());
            None
        }
        Err(error @ StatusError::NotRunning { .. }) => {
            let more = match query.topic {
                Topic::Nodes => "",
                _ => ", or give its configuration with --config FILE to look without it",
            };
            return Err(anyhow::Error::new(error).context(format!(
                "the Identity and Access Manager is not asked: start it (systemctl start aos-iam), check \
                 --run-dir{more}"
            )));
        }
        Err(error) => {
            return Err(error).context("the Identity and Access Manager gave no status; see its log");
        }
    };
    let answer = match (query.topic, &status, &query.config) {
        (Topic::Nodes, Some(status), _) => status["nodes"].clone(),
        (Topic::Certificates, Some(status), _) => certificates(status, tokens(&dir).ok().as_ref()),
        (Topic::Token, Some(_), _) => tokens(&dir)?["tokens"].clone(),
        (topic, None, Some(config)) => {
            let report = look(config)?;
            report[if topic == Topic::Token { "tokens" } else { "certificates" }].clone()
        }
        _ => Value::Null,
    };
    if query.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", describe(query.topic, &answer, now()));
    }
    let wrong = elements(&answer).iter().filter(|one| !one["error"].is_null()).count();
    if query.topic == Topic::Token && wrong > 0 {
        bail!("{wrong} of {} tokens cannot be used", elements(&answer).len());
    }
    Ok(())
}

/// The tokens as the running manager sees them.
fn tokens(dir: &Path) -> Result<Value> {
    let report = local::read(dir, "iam-token").context("the manager runs but says nothing of its tokens")?;
    if report["busy"] == json!(true) {
        bail!("a token is at work (a key is being made, perhaps); ask again in some seconds");
    }
    if let Some(error) = report["error"].as_str() {
        bail!("the manager could not look at its tokens: {error}");
    }
    Ok(report)
}

#[cfg(feature = "iam")]
fn look(config: &Path) -> Result<Value> {
    Ok(aos_iam::look_at_tokens(config)?)
}

#[cfg(not(feature = "iam"))]
fn look(_: &Path) -> Result<Value> {
    bail!("this build does not contain `iam`")
}

/// The manager's certificates with the begin of their lives, which only the tokens know.
fn certificates(status: &Value, tokens: Option<&Value>) -> Value {
    let in_token = tokens.map_or(&[][..], |report| elements(&report["certificates"]));
    let known = elements(&status["certificates"]).iter().map(|one| {
        let mut one = one.clone();
        let same = |other: &&Value| other["type"] == one["type"] && other["serial"] == one["serial"];
        if let Some(found) = in_token.iter().find(same) {
            one["notBefore"] = found["notBefore"].clone();
        }
        one
    });
    known.collect()
}

fn describe(topic: Topic, answer: &Value, now: i64) -> String {
    let list = elements(answer);
    match topic {
        Topic::Nodes => table(
            &["NODE", "TYPE", "STATE", "CONNECTED", "CERTIFICATE UNTIL", "ERROR"],
            &rows(list, &["/id", "/type", "/state", "/connected", "/certificate/notAfter", "/error"]),
        ),
        Topic::Certificates if list.is_empty() => {
            "no certificates: the node is not provisioned, or its token is empty (see `aos iam token`)\n"
                .into()
        }
        Topic::Certificates => {
            let paths = ["/type", "/serial", "/issuer", "/notBefore", "/notAfter"];
            let lines: Vec<_> = list
                .iter()
                .map(|one| {
                    let mut line: Vec<String> = paths.iter().map(|path| text(one, path)).collect();
                    line.push(used(&line[3], &line[4], now));
                    line.push(text(one, "/keyUrl"));
                    line
                })
                .collect();
            table(&["TYPE", "SERIAL", "ISSUER", "VALID FROM", "VALID TILL", "USED", "KEY"], &lines)
        }
        Topic::Token => list.iter().map(token).collect::<Vec<_>>().join("\n"),
    }
}

/// Share of a life that is over, as in `42 %`.
fn used(from: &str, till: &str, now: i64) -> String {
    match (seconds(from), seconds(till)) {
        (Some(from), Some(_)) if now < from => "not yet valid".to_owned(),
        (_, Some(till)) if now >= till => "expired".to_owned(),
        (Some(from), Some(till)) if till > from => {
            format!("{} %", i128::from(now - from) * 100 / i128::from(till - from))
        }
        _ => String::new(),
    }
}

/// Unix time of `2026-01-02T03:04:05Z`, the only form that the manager writes.
fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(separator).map(|part| part.parse().ok()).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    // Days since 1970 in the proleptic Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// One token, a line for each fact.
fn token(token: &Value) -> String {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push(vec![name.to_owned(), value]);
        }
    };
    let number = |path: &str| token.pointer(path).and_then(Value::as_u64);
    let types: Vec<String> = elements(&token["types"]).iter().map(|one| text(one, "")).collect();
    fact("types", types.join(", "));
    fact("library", text(token, "/library"));
    fact("folder", text(token, "/folder"));
    fact("slot", text(token, "/slot"));
    let maker = ["/manufacturer", "/model", "/serial"].map(|path| text(token, path));
    fact("device", maker.join(" ").trim().to_owned());
    fact("initialised", if token["initialised"] == json!(true) { "yes" } else { "no" }.to_owned());
    fact("session", text(token, "/session"));
    fact("user PIN", [text(token, "/pin"), text(token, "/pinFile")].join(" ").trim().to_owned());
    if let Some(total) = number("/objects/total") {
        let part = |path: &str, name: &str| format!("{} {name}", number(path).unwrap_or_default());
        fact(
            "objects",
            format!(
                "{total}: {}, {}, {}, {}",
                part("/objects/privateKeys", "private keys"),
                part("/objects/publicKeys", "public keys"),
                part("/objects/certificates", "certificates"),
                part("/objects/other", "other")
            ),
        );
    }
    fact("certified", text(token, "/certified"));
    fact("waiting", text(token, "/waiting"));
    fact("not certified", text(token, "/waitingOrOrphans"));
    fact("orphans", text(token, "/orphans"));
    fact("foreign", text(token, "/foreign"));
    for (name, free, total) in [
        ("public memory", "/memory/publicFree", "/memory/publicTotal"),
        ("private memory", "/memory/privateFree", "/memory/privateTotal"),
    ] {
        match (number(free), number(total)) {
            (Some(free), Some(total)) => fact(name, format!("{free} of {total} bytes free")),
            (Some(free), None) => fact(name, format!("{free} bytes free")),
            (None, Some(total)) => fact(name, format!("{total} bytes")),
            (None, None) => {}
        }
    }
    fact("error", text(token, "/error"));
    fact("next step", text(token, "/hint"));
    let label = text(token, "/label");
    table(&["TOKEN", if label.is_empty() { "(files)" } else { &label }], &facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_lives() {
        let (from, till) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let at = |text: &str| seconds(text).unwrap();
        assert_eq!(at("1970-01-01T00:00:00Z"), 0);
        assert_eq!(at("2000-03-01T00:00:01Z"), 951_868_801);
        assert_eq!(used(from, till, at("2026-07-02T12:00:00Z")), "50 %");
        assert_eq!(used(from, till, at("2025-12-31T23:59:59Z")), "not yet valid");
        assert_eq!(used(from, till, at("2027-01-01T00:00:00Z")), "expired");
        assert_eq!(used("", till, at(from)), "");
    }

    #[test]
    fn the_begin_of_a_life_comes_from_the_token() {
        let status = json!({"certificates": [
            {"type": "iam", "serial": "0a", "notAfter": "2036-01-01T00:00:00Z", "keyUrl": "pkcs11:object=iam"},
            {"type": "cm", "serial": "0a", "notAfter": "2036-01-01T00:00:00Z"},
        ]});
        let tokens =
            json!({"certificates": [{"type": "iam", "serial": "0a", "notBefore": "2016-01-01T00:00:00Z"}]});
        let known = certificates(&status, Some(&tokens));
        let shown = describe(Topic::Certificates, &known, seconds("2026-01-01T00:00:00Z").unwrap());
        let line = shown.lines().find(|line| line.starts_with("iam")).unwrap();
        assert!(line.contains("2016-01-01T00:00:00Z") && line.contains("50 %"), "{shown}");
        assert!(shown.contains("pkcs11:object=iam"), "{shown}");
        assert_eq!(known[1]["notBefore"], Value::Null);
    }

    #[test]
    fn a_sick_token_says_what_to_do() {
        let sick = json!({"types": ["iam", "cm"], "label": "aoscore", "initialised": true,
            "session": "not opened", "pin": "locked", "error": "it is locked", "hint": "set a new PIN",
            "memory": {"publicFree": 10, "publicTotal": null}});
        let text = token(&sick);
        for part in ["aoscore", "iam, cm", "not opened", "locked", "set a new PIN", "10 bytes free"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
