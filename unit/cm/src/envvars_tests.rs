use aos_cloud_protocol::EnvVar;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn variable(name: &str, value: &str, ttl: Option<i64>) -> EnvVar {
    EnvVar { name: name.into(), value: value.into(), ttl: ttl.map(at) }
}

fn filter(item: Option<&str>, instance: Option<u64>, variables: Vec<EnvVar>) -> EnvVarsFilter {
    EnvVarsFilter { item: item.map(AosIdentity::by_id), subject: None, instance, variables }
}

fn set(items: Vec<EnvVarsFilter>) -> Overrides {
    Overrides::accept(&OverrideEnvVars { items }).unwrap()
}

fn ident(item: &str, instance: u64) -> InstanceIdent {
    InstanceIdent::service(item.parse().unwrap(), "s".parse().unwrap(), instance)
}

fn pairs(list: &[(&str, &str)]) -> Environment {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

// PRO-108, PRO-110: filters, order, end of life.
#[test]
fn a_later_filter_wins_and_what_is_over_is_left_out() {
    let mut overrides = set(vec![
        filter(None, None, vec![variable("A", "1", None), variable("B", "1", Some(10))]),
        filter(Some("i"), None, vec![variable("A", "2", None), variable("C", "old", Some(5))]),
        filter(Some("i"), Some(1), vec![variable("B", "3", None)]),
        filter(Some("j"), None, vec![variable("A", "other", None)]),
    ]);
    let environment = |overrides: &Overrides, instance, second| {
        overrides.effect(&ident("i", instance), at(second)).environment
    };
    assert_eq!(environment(&overrides, 0, 1), pairs(&[("A", "2"), ("B", "1"), ("C", "old")]));
    assert_eq!(environment(&overrides, 1, 1), pairs(&[("A", "2"), ("B", "3"), ("C", "old")]));
    assert_eq!(overrides.next_end(), Some(at(5)));
    assert_eq!(environment(&overrides, 0, 5), pairs(&[("A", "2"), ("B", "1")]), "at its end it is over");
    let ended = overrides.effect(&ident("i", 0), at(5)).refused;
    assert_eq!((ended[0].0.as_str(), ended[0].1.code()), ("C", AosCode::Canceled));
    overrides.expire(at(5));
    assert_eq!(overrides.next_end(), Some(at(10)));
    overrides.expire(at(10));
    assert_eq!((overrides.next_end(), overrides.filters.len()), (None, 4));
    assert_eq!(environment(&overrides, 0, 10), pairs(&[("A", "2")]));
}

#[test]
fn what_no_process_can_have_is_refused_by_itself() {
    let big = "x".repeat(10_240);
    let overrides = set(vec![filter(
        None,
        None,
        vec![
            variable("A=B", "1", None),
            variable("Z", "a\0b", None),
            variable("ONE", &big, None),
            variable("TWO", &big, None),
            variable("THREE", &big, None),
            variable("FOUR", &big, None),
            variable("LAST", "1", None),
        ],
    )]);
    let effect = overrides.effect(&ident("i", 0), at(0));
    let names: Vec<&str> = effect.environment.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ONE", "TWO", "THREE", "LAST"]);
    let codes: Vec<_> = effect.refused.iter().map(|(name, error)| (name.as_str(), error.code())).collect();
    assert_eq!(
        codes,
        [("A=B", AosCode::InvalidArgument), ("Z", AosCode::InvalidArgument), ("FOUR", AosCode::NoMemory)]
    );
}

#[test]
fn a_set_has_limits() {
    let filters = |count| OverrideEnvVars { items: vec![filter(None, None, vec![]); count] };
    assert!(Overrides::accept(&filters(MAX_FILTERS)).is_ok());
    assert_eq!(Overrides::accept(&filters(MAX_FILTERS + 1)), Err(BadSet::Filters(MAX_FILTERS + 1)));
    let variables =
        |count| OverrideEnvVars { items: vec![filter(None, None, vec![variable("A", "", None); count])] };
    assert!(Overrides::accept(&variables(MAX_VARIABLES)).is_ok());
    assert_eq!(Overrides::accept(&variables(MAX_VARIABLES + 1)), Err(BadSet::Variables(MAX_VARIABLES + 1)));
}

#[test]
fn an_instance_that_is_named_and_not_there_is_told() {
    let mut named = filter(Some("i"), Some(1), vec![variable("A", "1", None)]);
    named.subject = Some(AosIdentity::by_id("s"));
    let overrides = set(vec![named, filter(Some("i"), Some(2), vec![variable("B", "1", None)])]);
    let statuses = overrides.without_instance(|_, _, number| number == 0);
    assert_eq!(statuses.len(), 1);
    assert_eq!((statuses[0].instance, statuses[0].name.as_str()), (1, "A"));
    assert_eq!(statuses[0].error_info.as_ref().unwrap().code(), AosCode::NotFound);
    assert!(overrides.without_instance(|_, _, _| true).is_empty());
}

proptest! {
    /// Against the obvious way: write all into a map in order.
    #[test]
    fn the_environment_is_what_writing_one_after_the_other_gives(
        filters in prop::collection::vec(
            (prop::option::of("[ij]"), prop::option::of(0u64..2),
             prop::collection::vec(("[A-D]", "[a-z]{0,3}", prop::option::of(0i64..20)), 0..4)),
            0..8),
        now in 0i64..20,
        number in 0u64..2,
    ) {
        let items = filters.iter().map(|(item, instance, variables)| {
            let variables = variables.iter().map(|(name, value, ttl)| variable(name, value, *ttl));
            filter(item.as_deref(), *instance, variables.collect())
        });
        let mut overrides = set(items.collect());
        let mut model = BTreeMap::new();
        for (item, instance, variables) in &filters {
            if item.as_deref().is_none_or(|item| item == "i") && instance.is_none_or(|one| one == number) {
                for (name, value, ttl) in variables {
                    if ttl.is_none_or(|ttl| ttl > now) {
                        model.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let effect = overrides.effect(&ident("i", number), at(now));
        prop_assert!(effect.refused.iter().all(|(name, _)| !model.contains_key(name)));
        prop_assert_eq!(effect.environment.clone().into_iter().collect::<BTreeMap<_, _>>(), model);
        overrides.expire(at(now));
        let later = Effect { refused: vec![], ..effect };
        prop_assert_eq!(overrides.effect(&ident("i", number), at(now)), later);
        prop_assert!(overrides.next_end().is_none_or(|end| end > at(now)));
    }
}
