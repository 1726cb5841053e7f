//! Why a request is denied: the rule that comes nearest, and the first thing that differs from it.

use crate::kubernetes::KubernetesDifference;
use crate::question::{Question, UnreadableBody};
use crate::rule::{Fit, Rule, RuleIndex};

/// The rule that comes nearest to a denied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    rule: RuleIndex,
    difference: Difference,
}

impl Nearest {
    /// The rule.
    pub fn rule(&self) -> RuleIndex {
        self.rule
    }

    /// The first thing that differs.
    pub fn difference(&self) -> &Difference {
        &self.difference
    }

    pub(crate) fn find(rules: &[Rule], question: &Question<'_>) -> Option<Self> {
        let candidates = rules.iter().enumerate().filter_map(|(index, rule)| {
            let Fit::Differs(difference) = rule.fit(question) else {
                return None;
            };
            Some(Self {
                rule: RuleIndex(index),
                difference,
            })
        });
        candidates.max_by_key(|nearest| nearest.difference.rank())
    }
}

/// The first thing in which a request differs from what a rule allows; the indexes are positions
/// in the rule's own lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The rule is turned off.
    Disabled,
    /// The method.
    Method,
    /// The path.
    Path,
    /// What is asked of a Kubernetes API.
    Kubernetes(KubernetesDifference),
    /// The path has a `%2F`, which the rule or its origin refuses.
    EncodedSlash,
    /// The path has an escape that nothing needs, such as `%2E`, which the rule refuses.
    EncodedUnreserved,
    /// Who asks.
    Caller,
    /// The rule's time is over.
    Expired,
    /// A query parameter.
    Query {
        /// Which of the rule's conditions on the query.
        index: usize,
    },
    /// A header.
    Header {
        /// Which of the rule's conditions on headers.
        index: usize,
    },
    /// A value in the body.
    Body {
        /// Which of the rule's conditions on the body; where one of several suffices, the first.
        index: usize,
    },
    /// The body is none that has one reading only.
    UnreadableBody(UnreadableBody),
}

impl Difference {
    fn rank(&self) -> u8 {
        match self {
            Self::Disabled => 0,
            Self::Path
            | Self::Kubernetes(KubernetesDifference::Target | KubernetesDifference::Resource) => 1,
            Self::Kubernetes(
                KubernetesDifference::Namespace
                | KubernetesDifference::Verb
                | KubernetesDifference::Name,
            ) => 3,
            Self::Method => 2,
            Self::EncodedSlash | Self::EncodedUnreserved | Self::Caller | Self::Expired => 3,
            Self::Query { .. } | Self::Header { .. } => 4,
            Self::Body { .. } | Self::UnreadableBody(_) => 5,
        }
    }
}
