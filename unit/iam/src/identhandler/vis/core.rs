//! What to say to the service and what to tell those who asked; pure.
//!
//! Values are kept until the next connection. Questions that come while there is no connection, or are
//! under way when it breaks, are asked when the next one stands.

use std::collections::BTreeMap;

use super::messages::{self, Found, Said, Topic};
use crate::Error;

/// Questions that may wait for an answer at the same time.
const MAX_WAITING: usize = 64;

/// Number of a question.
pub type QuestionId = u64;

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send a text to the service.
    Send(String),
    /// Answer a question.
    Answer(QuestionId, Result<Found, Error>),
    /// The subjects have become others.
    Subjects(Vec<String>),
    /// The system ID is known now.
    SystemId(String),
    /// The connection is of no use.
    Break(Error),
}

#[derive(Debug)]
enum Asked {
    Subscription,
    Value(Topic),
}

/// The state of the talk with the service.
#[derive(Debug, Default)]
pub struct Talk {
    connected: bool,
    subscription: Option<String>,
    requests: BTreeMap<String, Asked>,
    waiting: Vec<(QuestionId, Topic)>,
    values: Vec<(Topic, Found)>,
    /// What listeners know.
    told: Vec<String>,
}

impl Talk {
    /// A connection stands. `new_id` makes request identities.
    pub fn connected(&mut self, mut new_id: impl FnMut() -> String) -> Vec<Action> {
        self.connected = true;
        self.subscription = None;
        self.values.clear();
        self.requests.clear();
        vec![self.ask("subscribe", Topic::Subjects, Asked::Subscription, &mut new_id)]
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.subscription = None;
        self.requests.clear();
    }

    /// Somebody wants to know something.
    pub fn question(
        &mut self,
        id: QuestionId,
        topic: Topic,
        mut new_id: impl FnMut() -> String,
    ) -> Vec<Action> {
        if let Some((_, found)) = self.values.iter().find(|(known, _)| *known == topic) {
            return vec![Action::Answer(id, Ok(found.clone()))];
        }
        if self.waiting.len() >= MAX_WAITING {
            let error = Error::TooMany("too many questions wait for the Vehicle Information Service".into());
            return vec![Action::Answer(id, Err(error))];
        }
        self.waiting.push((id, topic));
        if self.subscription.is_some() { self.ask_once(topic, &mut new_id) } else { Vec::new() }
    }

    /// The one who asked has gone.
    pub fn forget(&mut self, id: QuestionId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    /// The service said something.
    pub fn said(&mut self, said: &Said, mut new_id: impl FnMut() -> String) -> Vec<Action> {
        if said.action == "subscription" {
            return self.notified(said);
        }
        match self.requests.remove(&said.request_id) {
            None => Vec::new(),
            Some(Asked::Subscription) => self.subscribed(said, &mut new_id),
            Some(Asked::Value(topic)) => self.answered(topic, said),
        }
    }

    fn subscribed(&mut self, said: &Said, new_id: &mut impl FnMut() -> String) -> Vec<Action> {
        if let Some(refusal) = said.refusal() {
            return vec![Action::Break(refusal)];
        }
        let Some(subscription) = said.subscription() else {
            let reason = "the Vehicle Information Service gave no number for the subscription of subjects";
            return vec![Action::Break(Error::Failed(reason.into()))];
        };
        self.subscription = Some(subscription);
        // Subjects may have changed while nobody listened.
        let mut actions = self.ask_once(Topic::Subjects, new_id);
        for topic in Topic::ALL {
            if self.waiting.iter().any(|(_, waiting)| *waiting == topic) {
                actions.extend(self.ask_once(topic, new_id));
            }
        }
        actions
    }

    fn notified(&mut self, said: &Said) -> Vec<Action> {
        if said.subscription().is_none() || said.subscription() != self.subscription {
            return Vec::new();
        }
        match messages::read(Topic::Subjects, &said.value) {
            Ok(found) => self.learned(Topic::Subjects, &found),
            Err(error) => {
                tracing::warn!("a notification is left out: {}", aos_logging::with_causes(&error));
                Vec::new()
            }
        }
    }

    fn answered(&mut self, topic: Topic, said: &Said) -> Vec<Action> {
        let result = messages::answered(topic, said);
        let mut actions = match &result {
            Ok(found) => self.learned(topic, found),
            Err(error) => {
                tracing::warn!("{} is not known: {}", topic.path(), aos_logging::with_causes(error));
                Vec::new()
            }
        };
        for (id, _) in self.waiting.extract_if(.., |(_, waiting)| *waiting == topic) {
            let answer = match &result {
                Ok(found) => Ok(found.clone()),
                Err(error) => Err(Error::Failed(aos_logging::with_causes(error))),
            };
            actions.push(Action::Answer(id, answer));
        }
        actions
    }

    fn learned(&mut self, topic: Topic, found: &Found) -> Vec<Action> {
        self.values.retain(|(known, _)| *known != topic);
        self.values.push((topic, found.clone()));
        match found {
            Found::SystemId(id) => vec![Action::SystemId(id.clone())],
            Found::UnitModel(..) => Vec::new(),
            Found::Subjects(subjects) if *subjects == self.told => Vec::new(),
            Found::Subjects(subjects) => {
                self.told.clone_from(subjects);
                vec![Action::Subjects(subjects.clone())]
            }
        }
    }

    /// Asks for a value unless that is under way.
    fn ask_once(&mut self, topic: Topic, new_id: &mut impl FnMut() -> String) -> Vec<Action> {
        let under_way =
            self.requests.values().any(|asked| matches!(asked, Asked::Value(value) if *value == topic));
        if under_way {
            return Vec::new();
        }
        vec![self.ask("get", topic, Asked::Value(topic), new_id)]
    }

    fn ask(
        &mut self,
        action: &str,
        topic: Topic,
        asked: Asked,
        new_id: &mut impl FnMut() -> String,
    ) -> Action {
        let id = new_id();
        let text = messages::request(action, &id, topic.path());
        self.requests.insert(id, asked);
        Action::Send(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A talk with numbered requests.
    #[derive(Default)]
    struct Script {
        talk: Talk,
        last: u32,
    }

    impl Script {
        fn ids(last: &mut u32) -> impl FnMut() -> String {
            move || {
                *last += 1;
                last.to_string()
            }
        }

        fn connect(&mut self) -> Vec<Action> {
            self.talk.connected(Self::ids(&mut self.last))
        }

        fn ask(&mut self, id: QuestionId, topic: Topic) -> Vec<Action> {
            self.talk.question(id, topic, Self::ids(&mut self.last))
        }

        fn hear(&mut self, said: Value) -> Vec<Action> {
            self.talk.said(&serde_json::from_value(said).unwrap(), Self::ids(&mut self.last))
        }

        /// Up to the subscription; then the subjects are asked for as request 2.
        fn subscribed() -> Self {
            let mut script = Self::default();
            assert!(matches!(&script.connect()[..], [Action::Send(text)] if text.contains("subscribe")));
            let next = script.hear(json!({"action": "subscribe", "requestId": "1", "subscriptionId": "5"}));
            assert!(matches!(&next[..], [Action::Send(text)] if text.contains("Subjects")));
            script
        }
    }

    // IAM 26.17
    #[test]
    fn equal_subjects_are_told_once() {
        let mut script = Script::subscribed();
        let answer = json!({"action": "get", "requestId": "2", "value": ["a"]});
        assert!(matches!(&script.hear(answer)[..], [Action::Subjects(list)] if list == &["a"]));
        let notify =
            |id: &str, list: Value| json!({"action": "subscription", "subscriptionId": id, "value": list});
        assert!(script.hear(notify("5", json!(["a"]))).is_empty());
        assert!(script.hear(notify("6", json!(["b"]))).is_empty(), "not ours");
        let told = script.hear(notify("5", json!({"Attribute.Aos.Subjects": ["a", "b"]})));
        assert!(matches!(&told[..], [Action::Subjects(list)] if list == &["a", "b"]));
        let known = script.ask(1, Topic::Subjects);
        assert!(matches!(&known[..], [Action::Answer(1, Ok(Found::Subjects(list)))] if list.len() == 2));
        assert!(script.hear(notify("5", json!("garbage"))).is_empty());
    }

    #[test]
    fn questions_wait_for_a_connection_and_outlive_it() {
        let mut script = Script::default();
        assert!(script.ask(1, Topic::SystemId).is_empty());
        script.connect();
        let asked = script.hear(json!({"action": "subscribe", "requestId": "1", "subscriptionId": 5}));
        assert_eq!(asked.len(), 2, "subjects and system ID: {asked:?}");
        assert!(script.ask(2, Topic::SystemId).is_empty(), "asked already");
        script.talk.disconnected();
        script.connect();
        script.hear(json!({"action": "subscribe", "requestId": "4", "subscriptionId": 6}));
        assert!(script.hear(json!({"action": "get", "requestId": "3", "value": "OLD"})).is_empty());
        let answers = script.hear(json!({"action": "get", "requestId": "6", "value": "VIN"}));
        assert_eq!(answers.iter().filter(|action| matches!(action, Action::Answer(_, Ok(_)))).count(), 2);
        let refused = json!({"action": "get", "requestId": "7", "error": {"number": 404}});
        assert!(matches!(&script.ask(3, Topic::UnitModel)[..], [Action::Send(_)]));
        assert!(matches!(&script.hear(refused)[..], [Action::Answer(3, Err(_))]));
        assert!(matches!(&script.ask(4, Topic::UnitModel)[..], [Action::Send(_)]), "errors are not kept");
        script.talk.forget(4);
        assert!(script.hear(json!({"action": "get", "requestId": "8", "value": "m;1"})).is_empty());
    }

    #[test]
    fn a_refused_subscription_breaks_the_connection() {
        for answer in [
            json!({"action": "subscribe", "requestId": "1", "error": {"number": 403}}),
            json!({"action": "subscribe", "requestId": "1"}),
        ] {
            let mut script = Script::default();
            script.connect();
            assert!(matches!(&script.hear(answer)[..], [Action::Break(_)]));
        }
    }
}
