//! How the rules are read and applied, whatever stands in them.

use accept_rules::UnknownKeys;
use broker_process::settings::{Settings, integer, shown};

use super::table;

/// The largest limit of bodies that are judged, in bytes: several are kept at once.
const MAX_BODY_LIMIT: usize = 16 << 20;
/// Longest contact, in characters: it goes into every answer to a denied request.
const MAX_CONTACT: usize = 200;

/// How rules are read and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSettings {
    /// What becomes of a key that means nothing.
    pub unknown_keys: UnknownKeys,
    /// What becomes of a rule with a variable that is not set.
    pub missing_variables: MissingVariables,
    /// Longest body that is kept to be judged, in bytes.
    pub body_limit: usize,
    /// What the callers of denied requests are told.
    pub explaining: Explaining,
}

/// What the callers of denied requests are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explaining {
    /// Of the rules.
    pub to_callers: ExplainToCallers,
    /// Whom they may ask.
    pub contact: Option<String>,
}

/// What the caller of a denied request is told of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExplainToCallers {
    /// Nothing.
    None,
    /// Which part of the request differs from the nearest rule.
    #[default]
    Part,
    /// Also which rule that is, with its method and path.
    Nearest,
}

/// What becomes of a rule with a variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingVariables {
    /// The file is refused.
    #[default]
    Refuse,
    /// The rule is turned off, and the operator is told.
    DisableRule,
}

pub(super) fn rule_settings(settings: &Settings<'_>) -> RuleSettings {
    RuleSettings {
        unknown_keys: settings.value(&table::UNKNOWN_KEYS, |text| match text {
            "refuse" => Ok(UnknownKeys::Refuse),
            "warn" => Ok(UnknownKeys::Warn),
            _ => Err(format!("{} is not refuse or warn", shown(text))),
        }),
        missing_variables: settings.value(&table::MISSING_VARIABLES, |text| match text {
            "refuse" => Ok(MissingVariables::Refuse),
            "disable-rule" => Ok(MissingVariables::DisableRule),
            _ => Err(format!("{} is not refuse or disable-rule", shown(text))),
        }),
        body_limit: settings.value(&table::BODY_LIMIT, integer(1..=MAX_BODY_LIMIT)),
        explaining: Explaining {
            to_callers: settings.value(&table::EXPLAIN_TO_CALLERS, |text| match text {
                "none" => Ok(ExplainToCallers::None),
                "part" => Ok(ExplainToCallers::Part),
                "nearest" => Ok(ExplainToCallers::Nearest),
                _ => Err(format!("{} is not none, part or nearest", shown(text))),
            }),
            contact: settings.optional(&table::CONTACT, contact),
        },
    }
}

fn contact(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_CONTACT {
        return Err(format!(
            "{} is longer than {MAX_CONTACT} characters",
            shown(text)
        ));
    }
    if text.contains(char::is_control) {
        return Err(format!("{} has a control character", shown(text)));
    }
    Ok(text.to_owned())
}
