//! What is said of a denial is true.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{Asked, denial};
use super::*;
use crate::file::RuleFile;
use crate::rule::{EncodedSlash, List};

/// A rule as a file has it. Its conditions, where it has them, ask for `1`.
#[derive(Clone, Debug)]
struct Written {
    method: &'static str,
    path: String,
    /// Its origin refuses `%2F`.
    refuses: bool,
    query: bool,
    header: bool,
    body: bool,
}

impl Written {
    fn json(&self) -> Value {
        let valid = [
            (self.query, json!({"queryParam": "q", "values": ["1"]})),
            (self.header, json!({"header": "h", "values": ["1"]})),
            (self.body, json!({"path": "k", "value": "1"})),
        ];
        let valid: Vec<_> = valid
            .into_iter()
            .filter(|(is_there, _)| *is_there)
            .map(|(_, it)| it)
            .collect();
        let origin = if self.refuses {
            "https://refuses"
        } else {
            "https://data"
        };
        let mut rule = json!({"method": self.method, "path": self.path, "origin": origin});
        if !valid.is_empty() {
            rule["valid"] = valid.into();
        }
        rule
    }

    /// What fits the segment at `index`.
    fn segment(&self, index: usize) -> String {
        let own = path::segments(&self.path).nth(index).unwrap();
        let literal = own.split([':', '*']).next().unwrap();
        if literal.is_empty() {
            "z".to_owned()
        } else {
            literal.to_owned()
        }
    }
}

fn set_of(rules: &[Written]) -> RuleSet {
    let rules: Vec<_> = rules.iter().map(Written::json).collect();
    let file = RuleFile::parse(&json!({"private": rules}).to_string()).unwrap();
    RuleSet::compile(&file, List::Private, |origin| match origin {
        "https://refuses" => EncodedSlash::Refuse,
        _ => EncodedSlash::Data,
    })
}

fn rule() -> impl Strategy<Value = Written> {
    let method = prop::sample::select(vec!["GET", "POST", "any"]);
    let segment = prop::sample::select(vec![
        "a", "b", "B.c", ":x", "a*", "*", "*b", ":x?", ":x*", ":x.:y",
    ]);
    let path = prop::collection::vec(segment, 0..4).prop_map(|it| format!("/{}", it.join("/")));
    let flag = prop::bool::weighted(0.3);
    (method, path, flag, flag, flag, flag).prop_map(
        |(method, path, refuses, query, header, body)| Written {
            method,
            path,
            refuses,
            query,
            header,
            body,
        },
    )
}

fn request() -> impl Strategy<Value = Asked> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT"]);
    let segment = prop::sample::select(vec!["a", "A", "b", "c", "ab", "b.c", "a;b", "a%2Fb"]);
    let path = prop::collection::vec(segment, 0..4).prop_map(|it| format!("/{}", it.join("/")));
    let query = prop::sample::select(vec!["", "?q=1", "?q=2", "?q=1&q=1"]);
    let header = prop::option::of(prop::sample::select(vec!["1", "2"]));
    let body = prop::sample::select(vec!["{}", r#"{"k": "1"}"#, r#"{"k": "2"}"#, "x"]);
    (method, path, query, header, body).prop_map(|(method, path, query, header, body)| Asked {
        method: method.to_owned(),
        target: format!("{path}{query}"),
        headers: header
            .map(|value| ("h".to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        body: body.to_owned(),
    })
}

/// The request with nothing changed but what `difference` names, such that it fits the rule; none
/// where a test cannot tell how.
fn mended(asked: &Asked, rule: &Written, difference: &Difference) -> Option<Asked> {
    let mut mended = asked.clone();
    let (path, query) = asked
        .target
        .split_once('?')
        .map_or((&*asked.target, None), |(path, query)| (path, Some(query)));
    let mut segments: Vec<_> = path::segments(path).map(str::to_owned).collect();
    let with_path = |path: String| match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match difference {
        Difference::Path(PathDifference::Segment { index, .. }) => {
            segments[*index] = rule.segment(*index)
        }
        Difference::Path(PathDifference::Missing { index }) => segments.push(rule.segment(*index)),
        Difference::Path(PathDifference::Beyond { index, .. }) => segments.truncate(*index),
        Difference::Path(PathDifference::Ending | PathDifference::From { .. })
        | Difference::Parameters => return None,
        Difference::EncodedSlash => segments
            .iter_mut()
            .for_each(|it| *it = it.replace("%2F", "x")),
        Difference::Method => rule.method.clone_into(&mut mended.method),
        Difference::Header { .. } => mended.headers = vec![("h".to_owned(), "1".to_owned())],
        Difference::Query { .. } => {
            mended.target = format!("{path}?q=1");
            return Some(mended);
        }
        Difference::Body { .. } | Difference::UnreadableBody(_) => {
            mended.body = r#"{"k": "1"}"#.to_owned()
        }
        Difference::Path(PathDifference::EndSlash)
        | Difference::Kubernetes(_)
        | Difference::EncodedUnreserved
        | Difference::Caller
        | Difference::Expired
        | Difference::Disabled => panic!("no rule asks for that"),
    }
    mended.target = with_path(format!("/{}", segments.join("/")));
    Some(mended)
}

/// How far a request gets with a rule that denies it.
fn progress(difference: &Difference) -> (usize, usize) {
    let index = match difference {
        Difference::Path(
            PathDifference::Segment { index, .. } | PathDifference::Missing { index },
        ) => 2 * index,
        Difference::Path(PathDifference::From { index }) => 2 * index + 1,
        Difference::Path(
            PathDifference::Beyond { .. } | PathDifference::EndSlash | PathDifference::Ending,
        ) => usize::MAX - 1,
        Difference::Parameters
        | Difference::Kubernetes(_)
        | Difference::Method
        | Difference::EncodedSlash
        | Difference::EncodedUnreserved
        | Difference::Caller
        | Difference::Expired
        | Difference::Header { .. }
        | Difference::Query { .. }
        | Difference::UnreadableBody(_)
        | Difference::Body { .. }
        | Difference::Disabled => 0,
    };
    (difference.stage(), index)
}

fn assert_differs(asked: &Asked, rule: &Written, difference: &Difference) {
    let path = asked.target.split('?').next().unwrap();
    let segment = |path, index| path::segments(path).nth(index).map(str::to_lowercase);
    match difference {
        Difference::Path(PathDifference::Segment { index }) => {
            assert!(segment(path, *index).is_some());
            assert_ne!(segment(path, *index), segment(&rule.path, *index));
        }
        Difference::Path(PathDifference::Missing { index }) => {
            assert_eq!(segment(path, *index), None);
            assert!(segment(&rule.path, *index).is_some());
        }
        Difference::Path(PathDifference::Beyond { index, .. }) => {
            assert!(segment(path, *index).is_some());
            assert_eq!(segment(&rule.path, *index), None);
        }
        Difference::Path(PathDifference::Ending) => {
            let last = rule.path.rsplit([':', '*']).next().unwrap().to_lowercase();
            assert!(!last.is_empty() && !path.to_lowercase().ends_with(&last));
        }
        Difference::Path(PathDifference::From { .. }) => assert!(rule.path.contains([':', '*'])),
        Difference::Parameters => assert!(path.contains(';')),
        Difference::EncodedSlash => assert!(rule.refuses && path.contains("%2F")),
        Difference::Method => {
            assert!(rule.method != "any" && rule.method != asked.method);
        }
        Difference::Header { index } => {
            assert!(rule.header && *index == 0);
            assert!(asked.headers.iter().all(|(_, value)| value != "1"));
        }
        Difference::Query { index } => {
            assert!(rule.query && *index == 0 && !asked.target.ends_with("?q=1"));
        }
        Difference::Body { index } => {
            assert!(rule.body && *index == 0 && !asked.body.contains('1'));
        }
        Difference::UnreadableBody(_) => assert!(rule.body && asked.body == "x"),
        Difference::Path(PathDifference::EndSlash)
        | Difference::Kubernetes(_)
        | Difference::EncodedUnreserved
        | Difference::Caller
        | Difference::Expired
        | Difference::Disabled => panic!("no rule asks for that"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_explanation_never_contradicts_the_verdict(
        rules in prop::collection::vec(rule(), 1..5),
        asked in request(),
    ) {
        let set = set_of(&rules);
        let Some(denied) = denial(&set, &asked) else {
            let allows = |rule: &Written| denial(&set_of(std::slice::from_ref(rule)), &asked).is_none();
            prop_assert!(rules.iter().any(allows));
            return Ok(());
        };
        let again = denial(&set, &asked).unwrap();
        prop_assert_eq!(denied.nearest(), again.nearest());
        let Some(nearest) = denied.nearest() else {
            let path = asked.target.split('?').next().unwrap();
            let first = |path: &str| path::segments(path).next().map(str::to_lowercase);
            let is_alike = |rule: &Written| first(path).is_some() && first(path) == first(&rule.path);
            prop_assert!(!rules.iter().any(is_alike));
            return Ok(());
        };
        let rule = &rules[nearest.rule().as_usize()];
        let alone = set_of(std::slice::from_ref(rule));
        let denied_alone = denial(&alone, &asked).expect("the named rule does not match");
        prop_assert_eq!(denied_alone.nearest().unwrap().difference(), nearest.difference());
        assert_differs(&asked, rule, nearest.difference());
        if let Some(mended) = mended(&asked, rule, nearest.difference())
            && let Some(denied) = denial(&alone, &mended)
        {
            let next = denied.nearest().unwrap().difference();
            prop_assert!(
                progress(next) > progress(nearest.difference()),
                "{:?}, and with {:?} {:?}", nearest, mended, next
            );
        }
    }
}
