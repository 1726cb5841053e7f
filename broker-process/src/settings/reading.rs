//! Typed values out of the layers, and everything that is wrong with them in one error.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::declaration::{Section, Setting, Table};
use super::environment::Environment;
use super::file::{Node, Problems, SettingsFile};
use super::value;

/// What is wrong with the settings, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<String>,
}

impl SettingsError {
    pub(super) fn one(problem: String) -> Self {
        Self {
            problems: vec![problem],
        }
    }

    /// Nothing, where nothing was noted.
    pub(super) fn of(problems: Problems) -> Result<(), Self> {
        // A place that is read twice is wrong once.
        let mut lines: Vec<String> = Vec::new();
        for problem in problems.into_lines() {
            if !lines.contains(&problem) {
                lines.push(problem);
            }
        }
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Self { problems: lines })
        }
    }

    /// Each problem: its source, the field, the value, the fix.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// The layers, gathered: flag over environment over file over default.
#[derive(Debug)]
pub struct Settings<'a> {
    arguments: &'a ArgMatches,
    environment: &'a Environment,
    folder: &'a Path,
    file: Option<SettingsFile>,
    problems: Problems,
}

impl<'a> Settings<'a> {
    /// Takes the arguments that [`Table::arguments`] declared, the environment, and the settings file that one of them
    /// names. Relative paths are relative to the settings file where they stand in it, and to `folder` elsewhere.
    ///
    /// # Errors
    /// If the settings file cannot be read or is not YAML.
    pub fn gather(
        table: &Table,
        arguments: &'a ArgMatches,
        environment: &'a Environment,
        folder: &'a Path,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self {
            arguments,
            environment,
            folder,
            file: None,
            problems: Problems::default(),
        };
        let file = settings
            .layer(&table.config)
            .map(|found| SettingsFile::read(&found.text, folder));
        match file {
            None => {}
            Some(Ok(file)) => {
                file.refuse_unknown(table, &settings.problems);
                settings.file = Some(file);
            }
            Some(Err(problem)) => {
                return Err(SettingsError::one(problem));
            }
        }
        for variable in table.settings().flat_map(Setting::variables) {
            if environment.is_unreadable(variable) {
                settings.problem(format!("environment {variable}: the value is not UTF-8"));
            }
        }
        Ok(settings)
    }

    /// A setting that has a default. Where its text is refused that is noted, and the default stands in until
    /// [`Settings::finish`].
    ///
    /// # Panics
    /// If it was declared without a default that `parse` takes.
    pub fn value<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.optional(setting, &parse).unwrap_or_else(|| {
            setting
                .default
                .and_then(|text| parse(text).ok())
                .expect("the setting was declared with a default that reads well")
        })
    }

    /// A setting that may be absent.
    pub fn optional<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.find(setting)?;
        parse(&found.text)
            .map_err(|error| self.problem(format!("{}: {error}", found.source)))
            .ok()
    }

    /// A setting that must be there; `fix` says what to set.
    pub fn required<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        fix: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.find(setting).is_none() {
            self.problem(fix);
        }
        self.optional(setting, parse)
    }

    /// A path, absolute or relative to where it was written.
    pub fn path(&self, setting: &Setting) -> Option<PathBuf> {
        let base = match (&self.find(setting)?.source, &self.file) {
            (Source::File { .. }, Some(file)) => file.folder(),
            _ => self.folder,
        };
        self.optional(setting, value::path)
            .map(|path| base.join(path))
    }

    /// Where a setting was set: `environment PORT`, `--server`, `broker.yaml: tunnel.count`.
    #[must_use]
    pub fn place(&self, setting: &Setting) -> Option<String> {
        Some(self.find(setting)?.source.to_string())
    }

    /// A list or map of the file.
    #[must_use]
    pub fn section(&self, section: &Section) -> Option<Node<'_>> {
        self.file.as_ref()?.find(section.key, &self.problems)
    }

    /// Notes that a setting's value will not do.
    pub fn refuse(&self, setting: &Setting, text: impl fmt::Display) {
        self.problem(match self.place(setting) {
            Some(place) => format!("{place}: {text}"),
            None => format!("{}: {text}", setting.places()),
        });
    }

    /// Notes that something is wrong.
    pub fn problem(&self, text: impl Into<String>) {
        self.problems.add(text.into());
    }

    /// Whether all was well.
    ///
    /// # Errors
    /// If anything was noted.
    pub fn finish(self) -> Result<(), SettingsError> {
        SettingsError::of(self.problems)
    }

    fn find(&self, setting: &Setting) -> Option<Found<'_>> {
        self.layer(setting).or_else(|| {
            let key = setting.key()?;
            let node = self.file.as_ref()?.find(key, &self.problems)?;
            Some(Found {
                text: Cow::Owned(node.text()?),
                source: Source::File { node },
            })
        })
    }

    /// The setting on the command line or in the environment.
    fn layer(&self, setting: &Setting) -> Option<Found<'_>> {
        let flag = setting.flag_name().and_then(|flag| {
            // A command need not take every setting of its table.
            let text = self.arguments.try_get_one::<String>(setting.name).ok()??;
            Some(Found {
                source: Source::Flag(flag),
                text: Cow::Borrowed(text),
            })
        });
        flag.or_else(|| {
            let environment = self.environment;
            let (name, text) = setting
                .env
                .iter()
                .find_map(|name| Some((*name, environment.get(name)?)))?;
            Some(Found {
                source: Source::Environment(name),
                text: Cow::Borrowed(text),
            })
        })
    }
}

struct Found<'f> {
    source: Source<'f>,
    text: Cow<'f, str>,
}

enum Source<'f> {
    Flag(String),
    Environment(&'static str),
    File { node: Node<'f> },
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { node } => f.write_str(&node.place()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::super::{Group, boolean, integer};
    use super::*;

    const COUNT: Setting = Setting::new("tunnel.count", "N", "How many")
        .env(&["TUNNEL_COUNT", "OLD_COUNT"])
        .default("2");
    const PLAIN: Setting = Setting::new("tunnel.plain", "", "No TLS")
        .switch()
        .default("false");
    const SERVER: Setting = Setting::new("server", "URL", "Where to").env(&["SERVER_URL"]);
    const CA: Setting = Setting::new("ca-cert", "FILE", "More roots").env(&["CA_CERT"]);
    const SECRET: Setting = Setting::secret("secret", "The secret").env(&["SECRET"]);
    const ORIGINS: Section = Section {
        key: "origins",
        help: "",
        example: "",
    };
    static TABLE: Table = Table {
        config: Setting::unfiled("config", "FILE", "Settings").env(&["CONFIG"]),
        groups: &[Group {
            title: "All",
            settings: &[COUNT, PLAIN, SERVER, CA, SECRET],
            sections: &[ORIGINS],
        }],
    };

    /// Runs `check` over the layers made of these arguments, variables and file, and returns the problems.
    fn problems<const N: usize>(
        arguments: &[&str],
        variables: [(&str, &str); N],
        yaml: &str,
        check: impl FnOnce(&Settings<'_>),
    ) -> Vec<String> {
        let folder = std::env::temp_dir().join(format!("broker-settings-{}", unique_name()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("broker.yaml"), yaml).unwrap();
        let arguments = ["run", "--config", "broker.yaml"].iter().chain(arguments);
        let arguments = TABLE
            .arguments(Command::new("run"))
            .get_matches_from(arguments);
        let environment = Environment::from(variables);
        let outcome = Settings::gather(&TABLE, &arguments, &environment, &folder).and_then(|s| {
            check(&s);
            s.finish()
        });
        std::fs::remove_dir_all(&folder).unwrap();
        outcome.err().map_or_else(Vec::new, |error| error.problems)
    }

    fn unique_name() -> String {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        )
    }

    fn count(settings: &Settings<'_>) -> u8 {
        settings.value(&COUNT, integer(1..=16))
    }

    #[test]
    fn a_flag_is_over_the_environment_over_the_file_over_the_default() {
        let yaml = "tunnel: {count: 3}";
        let flag = ["--tunnel-count", "5"];
        let variable = [("TUNNEL_COUNT", "4")];
        assert!(problems(&flag, variable, yaml, |s| assert_eq!(count(s), 5)).is_empty());
        assert!(problems(&[], variable, yaml, |s| assert_eq!(count(s), 4)).is_empty());
        assert!(
            problems(&[], [("TUNNEL_COUNT", "")], yaml, |s| assert_eq!(
                count(s),
                3
            ))
            .is_empty()
        );
        assert!(problems(&[], [], "", |s| assert_eq!(count(s), 2)).is_empty());
    }

    #[test]
    fn the_usual_variable_is_over_its_other_names() {
        let both = [("OLD_COUNT", "7"), ("TUNNEL_COUNT", "6")];
        assert!(problems(&[], both, "", |s| assert_eq!(count(s), 6)).is_empty());
        assert!(problems(&[], [("OLD_COUNT", "7")], "", |s| assert_eq!(count(s), 7)).is_empty());
    }

    #[test]
    fn a_refused_value_names_its_source() {
        let refused = |arguments: &[&str], variables, yaml: &str| {
            problems(arguments, variables, yaml, |s| {
                count(s);
            })
        };
        assert_eq!(
            refused(&["--tunnel-count", "x"], [("A", "")], ""),
            [r#"--tunnel-count: "x" is not a whole number (use 1 to 16)"#]
        );
        assert_eq!(
            refused(&[], [("OLD_COUNT", "99")], ""),
            [r#"environment OLD_COUNT: "99" is out of range (use 1 to 16)"#]
        );
        assert_eq!(
            refused(&[], [("A", "")], "tunnel: {count: 0}"),
            [r#"broker.yaml: tunnel.count: "0" is out of range (use 1 to 16)"#]
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let yaml = "tunnel: {count: 0, plain: 1}\ncolour: red";
        let found = problems(&[], [], yaml, |s| {
            count(s);
            s.value(&PLAIN, boolean);
        });
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let refused = |yaml: &str| problems(&[], [], yaml, |_| ());
        assert_eq!(
            refused("tunnel: {cuont: 3}"),
            [r#"broker.yaml: tunnel: unknown key "cuont" (did you mean "count"?)"#]
        );
        assert_eq!(
            refused("tunel: {count: 3}"),
            [r#"broker.yaml: unknown key "tunel" (did you mean "tunnel"?)"#]
        );
        assert_eq!(
            refused("colour: red"),
            [r#"broker.yaml: unknown key "colour" (known: ca-cert, origins, server, tunnel)"#]
        );
    }

    #[test]
    fn a_secret_has_no_place_in_the_file() {
        let found = problems(&[], [], "secret: brk_agent_0", |_| ());
        assert!(found[0].contains(r#"unknown key "secret""#), "{found:?}");
        assert!(!found[0].contains("brk_"), "{found:?}");
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for yaml in [
            "ca-cert: a\nca-cert: b",
            "origins:\n  a: {}\n  a: {}",
            "tunnel: {count: 1, count: 2}",
        ] {
            let found = problems(&[], [], yaml, |_| ());
            assert!(found[0].contains("duplicate entry"), "{found:?}");
        }
    }

    #[test]
    fn a_broken_file_is_told_without_what_could_be_a_secret_in_it() {
        let found = problems(
            &[],
            [],
            "origins:\n  https://u:p@h: {}\n  https://u:p@h: {}",
            |_| (),
        );
        assert!(found[0].contains("line 2"), "{found:?}");
        assert!(!found[0].contains("u:p"), "{found:?}");
    }

    #[test]
    fn a_list_or_map_where_one_value_belongs_is_refused_once() {
        let found = problems(&[], [], "tunnel: {count: [1]}", |s| {
            count(s);
        });
        assert_eq!(
            found,
            ["broker.yaml: tunnel.count: expected one value, found a list"]
        );
        let found = problems(&[], [], "tunnel: 3", |_| ());
        assert_eq!(
            found,
            ["broker.yaml: tunnel: expected a map, found a number"]
        );
    }

    #[test]
    fn a_switch_may_stand_alone() {
        let none = problems(&["--tunnel-plain"], [], "", |s| {
            assert!(s.value(&PLAIN, boolean))
        });
        assert!(none.is_empty());
        let none = problems(
            &["--tunnel-plain=false"],
            [],
            "tunnel: {plain: true}",
            |s| {
                assert!(!s.value(&PLAIN, boolean));
            },
        );
        assert!(none.is_empty());
    }

    #[test]
    fn a_path_in_the_file_is_relative_to_the_file() {
        let folder = std::env::temp_dir().join(format!("broker-settings-{}", unique_name()));
        std::fs::create_dir_all(folder.join("etc")).unwrap();
        std::fs::write(folder.join("etc/broker.yaml"), "ca-cert: ca.pem").unwrap();
        let arguments = TABLE.arguments(Command::new("run")).get_matches_from([
            "run",
            "--config",
            "etc/broker.yaml",
        ]);
        let from_file = Environment::default();
        let settings = Settings::gather(&TABLE, &arguments, &from_file, &folder).unwrap();
        assert_eq!(settings.path(&CA), Some(folder.join("etc/ca.pem")));
        let from_variable = Environment::from([("CA_CERT", "ca.pem")]);
        let settings = Settings::gather(&TABLE, &arguments, &from_variable, &folder).unwrap();
        assert_eq!(settings.path(&CA), Some(folder.join("ca.pem")));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let arguments = TABLE.arguments(Command::new("run")).get_matches_from([
            "run",
            "--config",
            "nowhere.yaml",
        ]);
        let environment = Environment::default();
        let error = Settings::gather(&TABLE, &arguments, &environment, Path::new("/")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("nowhere.yaml: cannot read the settings file: "),
            "{error}"
        );
    }

    #[test]
    fn a_secret_has_no_flag() {
        let refused = TABLE
            .arguments(Command::new("run"))
            .try_get_matches_from(["run", "--secret", "x"]);
        assert!(refused.is_err());
    }
}
