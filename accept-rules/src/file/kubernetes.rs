//! Rules of the kind `kubernetes`.

use super::error::Problem;
use super::path_rule::Matched;
use super::reader::{all, find};
use super::{Entries, RuleReader};
use crate::condition::Conditions;
use crate::kubernetes::{KubernetesResource, KubernetesRule, NameGlob, Verb};
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods, Pattern};

impl RuleReader<'_> {
    pub(super) fn read_kubernetes(&mut self, entries: &Entries) -> Option<Matched> {
        let verbs = self.read_verbs(entries);
        let resources = self.read_resources(entries);
        let namespaces = self.read_namespaces(entries);
        let names = match find(entries, "names") {
            Some(value) => {
                let names = self.some_texts("names", value);
                names
                    .and_then(|names| self.name_globs("names", names))
                    .map(Some)
            }
            None => Some(None),
        };
        let rule = KubernetesRule {
            verbs: verbs?,
            resources: resources?,
            namespaces: namespaces?,
            names: names?,
        };
        Some(Matched {
            methods: Methods::Only(rule.methods()),
            path: rule.to_string().into(),
            pattern: Pattern::Kubernetes(rule),
            conditions: Conditions::default(),
            encoded_slash: EncodedSlash::Refuse,
            encoded_unreserved: EncodedUnreserved::Refuse,
        })
    }

    fn read_verbs(&mut self, entries: &Entries) -> Option<Box<[Verb]>> {
        let verbs = self.needed_texts(entries, "verbs", "what may be done, such as \"get\"")?;
        all(verbs.into_iter().map(|text| {
            let verb = Verb::parse(text);
            if verb.is_none() {
                let write = "verbs by name: \"get\", \"list\", \"watch\", \"create\", \"update\", \
                             \"patch\", \"delete\" and \"deletecollection\"";
                self.refuse_value("verbs", text, write, Verb::NAMES);
            }
            verb
        }))
    }

    fn read_resources(&mut self, entries: &Entries) -> Option<Box<[KubernetesResource]>> {
        let what = "what it is about, such as \"pods\"";
        let resources = self.needed_texts(entries, "resources", what)?;
        all(resources.into_iter().map(|text| {
            let resource = KubernetesResource::parse(text);
            if resource.is_none() {
                let write = "resources in the plural and in lower case, without a version, such as \
                             \"pods\", \"deployments.apps\", \"pods/log\" or \"*.apps\"";
                self.refuse_value("resources", text, write, &[]);
            }
            resource
        }))
    }

    /// `Some(None)` where the rule is about all namespaces and what stands in none.
    fn read_namespaces(&mut self, entries: &Entries) -> Option<Option<Box<[NameGlob]>>> {
        let what = "namespaces, or [\"*\"] for all of them and what stands in none";
        let namespaces = self.needed_texts(entries, "namespaces", what)?;
        match namespaces[..] {
            ["*"] => Some(None),
            _ if namespaces.contains(&"*") => {
                let write = "it alone, or leave it out";
                self.refuse_value("namespaces", "*", write, &[]);
                None
            }
            _ => self.name_globs("namespaces", namespaces).map(Some),
        }
    }

    fn name_globs(&mut self, field: &'static str, names: Vec<&str>) -> Option<Box<[NameGlob]>> {
        all(names
            .into_iter()
            .map(|name| self.glob(field, name, NameGlob::parse)))
    }

    fn needed_texts<'n>(
        &mut self,
        entries: &'n Entries,
        key: &'static str,
        what: &'static str,
    ) -> Option<Vec<&'n str>> {
        let Some(value) = find(entries, key) else {
            self.refuse(Problem::Missing { key, what });
            return None;
        };
        self.some_texts(key, value)
    }
}
