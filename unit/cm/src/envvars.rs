//! Variables that the cloud overrides for instances: the set in force, what of it concerns whom, when it ends.
//!
//! Pure. A set replaces the one before as a whole. Filters are looked at in order and a later one wins for a
//! name; what has ended is left out. An instance takes 32 KiB of names and values, and a set 256 filters with
//! 4096 variables: what is beyond is refused, variable by variable or as a whole.

use std::collections::{BTreeMap, BTreeSet};

use aos_cloud_protocol::{AosIdentity, EnvVarStatus, EnvVarsFilter, OverrideEnvVars};
use aos_ids::{InstanceIdent, ItemId, SubjectId};
use aos_status::{AosCode, ErrorInfo};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Most filters of a set.
pub const MAX_FILTERS: usize = 256;
/// Most variables of a set.
pub const MAX_VARIABLES: usize = 4096;
/// Most bytes of names and values for one instance.
pub const MAX_INSTANCE_BYTES: usize = 32 * 1024;

/// Variables in the order in which they take effect: name and value.
pub type Environment = Vec<(String, String)>;

/// Why a set is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// More filters than a Unit takes.
    #[error("{0} filters, at most {MAX_FILTERS} are allowed")]
    Filters(usize),
    /// More variables than a Unit takes.
    #[error("{0} variables, at most {MAX_VARIABLES} are allowed")]
    Variables(usize),
}

/// One filter with its variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Filter {
    item: Option<String>,
    subject: Option<String>,
    instance: Option<u64>,
    variables: Vec<Variable>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Variable {
    name: String,
    value: String,
    until: Option<Timestamp>,
}

impl Variable {
    fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Why no process can have it.
    fn fault(&self) -> Option<&'static str> {
        if self.name.is_empty() || self.name.contains(['=', '\0']) {
            Some("this cannot be the name of a variable")
        } else if self.value.contains('\0') {
            Some("the value contains a zero byte")
        } else {
            None
        }
    }
}

/// The set in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    filters: Vec<Filter>,
}

/// What a set means for one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// What it gets.
    pub environment: Environment,
    /// What it does not get, and why.
    pub refused: Vec<(String, ErrorInfo)>,
}

fn matches(name: Option<&String>, id: &str) -> bool {
    name.is_none_or(|name| name == id)
}

impl Overrides {
    /// Takes a set over.
    pub fn accept(message: &OverrideEnvVars) -> Result<Self, BadSet> {
        if message.items.len() > MAX_FILTERS {
            return Err(BadSet::Filters(message.items.len()));
        }
        let variables = message.items.iter().map(|filter| filter.variables.len()).sum();
        if variables > MAX_VARIABLES {
            return Err(BadSet::Variables(variables));
        }
        let key = |identity: &Option<AosIdentity>| {
            // An identity that names nothing narrows nothing.
            identity.as_ref().and_then(AosIdentity::key).map(str::to_owned)
        };
        let filter = |filter: &EnvVarsFilter| Filter {
            item: key(&filter.item),
            subject: key(&filter.subject),
            instance: filter.instance,
            variables: filter
                .variables
                .iter()
                .map(|one| Variable { name: one.name.clone(), value: one.value.clone(), until: one.ttl })
                .collect(),
        };
        Ok(Self { filters: message.items.iter().map(filter).collect() })
    }

    /// Drops what has ended.
    pub fn expire(&mut self, now: Timestamp) {
        for filter in &mut self.filters {
            filter.variables.retain(|variable| !variable.is_over(now));
        }
        self.filters.retain(|filter| !filter.variables.is_empty());
    }

    /// When the next variable ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.filters.iter().flat_map(|filter| &filter.variables).filter_map(|variable| variable.until).min()
    }

    /// What an instance gets of it.
    pub fn effect(&self, ident: &InstanceIdent, now: Timestamp) -> Effect {
        let mut order: Vec<&str> = Vec::new();
        let mut last: BTreeMap<&str, &Variable> = BTreeMap::new();
        let concerned = self.filters.iter().filter(|filter| {
            matches(filter.item.as_ref(), ident.item.as_str())
                && matches(filter.subject.as_ref(), ident.subject.as_str())
                && filter.instance.is_none_or(|number| number == ident.instance)
        });
        let mut over: BTreeSet<&str> = BTreeSet::new();
        for variable in concerned.flat_map(|filter| &filter.variables) {
            if variable.is_over(now) {
                over.insert(&variable.name);
            } else if last.insert(&variable.name, variable).is_none() {
                order.push(&variable.name);
            }
        }
        let mut effect = Effect::default();
        for name in over.into_iter().filter(|name| !last.contains_key(name)) {
            let error = ErrorInfo::new(AosCode::Canceled, "the override has ended");
            effect.refused.push((name.to_owned(), error));
        }
        let mut room = MAX_INSTANCE_BYTES;
        for variable in order.into_iter().filter_map(|name| last.get(name)) {
            let size = variable.name.len() + variable.value.len();
            let refusal = match variable.fault() {
                Some(fault) => Some(ErrorInfo::new(AosCode::InvalidArgument, fault)),
                None if size > room => {
                    Some(ErrorInfo::new(AosCode::NoMemory, "too many variables for one instance"))
                }
                None => None,
            };
            if let Some(error) = refusal {
                effect.refused.push((variable.name.clone(), error));
            } else {
                room -= size;
                effect.environment.push((variable.name.clone(), variable.value.clone()));
            }
        }
        effect
    }

    /// Statuses of variables that name an instance which `exists` does not know.
    pub fn without_instance(&self, exists: impl Fn(&str, &str, u64) -> bool) -> Vec<EnvVarStatus> {
        let mut statuses = Vec::new();
        for filter in &self.filters {
            let (Some(item), Some(subject), Some(instance)) =
                (&filter.item, &filter.subject, filter.instance)
            else {
                continue;
            };
            if exists(item, subject, instance) || ItemId::new(item.clone()).is_err() {
                continue;
            }
            if SubjectId::new(subject.clone()).is_err() {
                continue;
            }
            statuses.extend(filter.variables.iter().map(|variable| EnvVarStatus {
                item: AosIdentity::by_id(item),
                subject: AosIdentity::by_id(subject),
                instance,
                name: variable.name.clone(),
                error_info: Some(ErrorInfo::new(AosCode::NotFound, "instance not found")),
            }));
        }
        statuses
    }
}

#[cfg(test)]
#[path = "envvars_tests.rs"]
mod tests;
