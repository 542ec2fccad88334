use std::collections::{BTreeMap, HashMap};

use aos_duration_text::DurationText;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Outer {
    ca_cert: String,
    max_dmips: u64,
    ratio: f64,
    enabled: bool,
    #[serde(alias = "oldName")]
    new_name: Option<String>,
    inner: Inner,
    list: Vec<Inner>,
    map: BTreeMap<String, Inner>,
    policy: Policy,
    optional: Option<Inner>,
    params: Option<serde_json::Value>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Inner {
    send_period: DurationText,
    count: Option<i32>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    #[default]
    Enabled,
    Disabled,
    Limited {
        #[serde(rename = "maxCount")]
        max_count: u8,
    },
    Named(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Strict {
    #[allow(dead_code)]
    node_info: StrictInner,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StrictInner {
    #[allow(dead_code)]
    max_dmips: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params {
    module_path: String,
}

fn outer(text: &str, rules: Rules) -> Result<Read<Outer>, LooseError> {
    from_slice(text.as_bytes(), rules)
}

fn reason(text: &str) -> String {
    outer(text, Rules::CONFIG).unwrap_err().to_string()
}

#[test]
fn keys_match_without_case_at_every_level() {
    let read = outer(
        r#"{"CACERT":"a","maxDMIPS":7,"Inner":{"SENDPERIOD":"10s"},"LIST":[{"SendPeriod":3}],
            "map":{"KeY":{"sendperiod":"1m"}},"optional":{"COUNT":-1}}"#,
        Rules::CONFIG,
    )
    .unwrap();
    assert_eq!(read.unknown, Vec::<String>::new());
    let value = read.value;
    assert_eq!((value.ca_cert.as_str(), value.max_dmips), ("a", 7));
    assert_eq!(value.inner.send_period, DurationText::from_secs(10));
    assert_eq!(value.list[0].send_period, DurationText::from_secs(3));
    assert_eq!(value.optional.unwrap().count, Some(-1));
    // Keys of maps are data.
    assert_eq!(value.map["KeY"].send_period, DurationText::from_secs(60));
}

#[test]
fn the_exact_key_and_aliases_are_known() {
    let read = outer(r#"{"OldNAME":"x"}"#, Rules::CONFIG).unwrap();
    assert_eq!((read.value.new_name.as_deref(), read.unknown.len()), (Some("x"), 0));
}

#[test]
fn null_is_absent_and_so_is_empty_text_in_configurations() {
    let all_null =
        r#"{"caCert":null,"maxDmips":null,"inner":null,"list":null,"policy":null,"optional":null}"#;
    assert_eq!(outer(all_null, Rules::DOCUMENT).unwrap().value, Outer::default());
    let empty = r#"{"newName":"","inner":{"sendPeriod":""}}"#;
    assert_eq!(outer(empty, Rules::CONFIG).unwrap().value, Outer::default());
    assert!(outer(empty, Rules::DOCUMENT).is_err());
    assert_eq!(outer(r#"{"newName":""}"#, Rules::DOCUMENT).unwrap().value.new_name.as_deref(), Some(""));
}

#[test]
fn unknown_keys_are_listed_with_their_path() {
    let read = outer(
        r#"{"cacerts":1,"inner":{"sendPeriods":1},"list":[{},{"x":{"y":1}}],"map":{"any":{"z":1}}}"#,
        Rules::CONFIG,
    )
    .unwrap();
    assert_eq!(read.unknown, ["cacerts", "inner.sendPeriods", "list[1].x", "map.any.z"]);
    let many = (0..500).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
    assert_eq!(outer(&format!("{{{many}}}"), Rules::CONFIG).unwrap().unknown.len(), 100);
}

#[test]
fn errors_name_the_key() {
    assert_eq!(
        reason(r#"{"inner":{"sendPeriod":"10 parsecs"}}"#),
        "inner.sendPeriod: '10 parsecs' is no duration (expected e.g. 10s, 1h30m, PT10S)"
    );
    assert_eq!(reason(r#"{"maxDMIPS":"x"}"#), "maxDMIPS: invalid type: string \"x\", expected u64");
    assert!(reason(r#"{"list":[{},{"count":3000000000}]}"#).starts_with("list[1].count: "));
    assert!(reason(r#"{"map":{"a":{"count":true}}}"#).starts_with("map.a.count: "));
    assert!(reason(r#"{"maxDMIPS":-1}"#).starts_with("maxDMIPS: "));
    assert!(reason(r#"{"inner":[]}"#).starts_with("inner: invalid type: an array"));
    assert_eq!(reason("[]"), "invalid type: an array, expected struct Outer");
    assert_eq!(reason(r#"{"caCert":5}"#), "caCert: invalid type: number 5, expected a string");
    assert_eq!(
        reason(r#"{"a":1,"caCert":"x","CAcert":"y"}"#),
        "CAcert: the same key as 'caCert', given twice"
    );
    assert!(reason(r#"{"map":{"a":{},"a":{}}}"#).contains("key 'a' is given twice"));
    let missing = from_slice::<Strict>(br#"{"nodeInfo":{}}"#, Rules::CONFIG).unwrap_err();
    assert_eq!(missing.to_string(), "nodeInfo: key 'maxDmips' is missing");
    let missing = from_slice::<Strict>(b"{}", Rules::CONFIG).unwrap_err();
    assert_eq!(missing.to_string(), "key 'nodeInfo' is missing");
}

#[test]
fn numbers_may_be_texts_and_in_documents_texts_numbers() {
    let read = outer(r#"{"maxDmips":"12","ratio":"0.5","enabled":"True"}"#, Rules::CONFIG).unwrap().value;
    assert_eq!((read.max_dmips, read.ratio, read.enabled), (12, 0.5, true));
    assert_eq!(outer(r#"{"maxDmips":3.0}"#, Rules::CONFIG).unwrap().value.max_dmips, 3);
    assert!(outer(r#"{"maxDmips":3.5}"#, Rules::CONFIG).is_err());
    assert_eq!(outer(r#"{"caCert":5}"#, Rules::DOCUMENT).unwrap().value.ca_cert, "5");
}

#[test]
fn enums_of_all_kinds() {
    let policy =
        |text: &str| outer(&format!(r#"{{"policy":{text}}}"#), Rules::CONFIG).map(|r| r.value.policy);
    assert_eq!(policy(r#""Disabled""#).unwrap(), Policy::Disabled);
    assert_eq!(policy(r#"{"LIMITED":{"MAXCOUNT":"3"}}"#).unwrap(), Policy::Limited { max_count: 3 });
    assert_eq!(policy(r#"{"named":"x"}"#).unwrap(), Policy::Named("x".to_owned()));
    assert!(policy(r#""sometimes""#).unwrap_err().to_string().starts_with("policy: unknown variant"));
    for bad in [r#""limited""#, r#"{"disabled":1}"#, "{}", r#"{"a":1,"b":2}"#, "3"] {
        assert!(policy(bad).is_err(), "{bad}");
    }
}

#[test]
fn free_form_parts_keep_their_keys_and_are_read_later() {
    let text = r#"{"params":{"ModulePath":"/lib","Nested":{"A":[1,null,"x"]}}}"#;
    let params = outer(text, Rules::CONFIG).unwrap().value.params.unwrap();
    assert_eq!(params, serde_json::json!({"ModulePath": "/lib", "Nested": {"A": [1, null, "x"]}}));
    let read = from_value::<Params>(params, Rules::CONFIG).unwrap();
    assert_eq!((read.value.module_path.as_str(), read.unknown), ("/lib", vec!["Nested".to_owned()]));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Tree::parse(nested(32).as_bytes(), 32).is_ok());
    assert!(Tree::parse(nested(33).as_bytes(), 32).is_err());
    assert!(Tree::parse(nested(100_000).as_bytes(), 1000).is_err());
    assert!(Tree::parse(b"{} x", 32).is_err());
}

/// A key of `Outer` in random letter case.
fn cased(key: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<bool>(), key.len()).prop_map(move |upper| {
        let change =
            |(c, upper): (char, bool)| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        key.chars().zip(upper).map(change).collect()
    })
}

#[test]
fn complaints_are_short() {
    let long = "ü".repeat(100_000);
    for text in [format!(r#"{{"maxDmips":"{long}"}}"#), format!(r#"{{"inner":{{"{long}":0,"{long}":0}}}}"#)] {
        let error = outer(&text, Rules::CONFIG).unwrap_err().to_string();
        assert!(error.len() < 1100, "{} bytes", error.len());
    }
}

proptest! {
    #[test]
    fn any_case_of_keys_reads_the_same(
        max in cased("maxDmips"), inner in cased("inner"), period in cased("sendPeriod"), value: u64,
    ) {
        let text = format!(r#"{{"{max}":{value},"{inner}":{{"{period}":7}}}}"#);
        let read = outer(&text, Rules::CONFIG).unwrap();
        prop_assert_eq!(read.value.max_dmips, value);
        prop_assert_eq!(read.value.inner.send_period, DurationText::from_secs(7));
        prop_assert!(read.unknown.is_empty());
    }

    #[test]
    fn map_keys_are_untouched(map: HashMap<String, i32>) {
        let text = serde_json::to_vec(&map).unwrap();
        prop_assert_eq!(from_slice::<HashMap<String, i32>>(&text, Rules::CONFIG).unwrap().value, map);
    }

    #[test]
    fn no_input_panics(text in "[\\[\\]{}\":,a-zA-Z0-9. -]{0,60}") {
        let _ = outer(&text, Rules::CONFIG);
    }
}
