//! What a program can be told, declared once.

use clap::{Arg, Command};

/// One scalar setting: where it can stand, what it is when it stands nowhere, and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub(super) name: &'static str,
    pub(super) in_file: bool,
    pub(super) flag: Option<&'static str>,
    pub(super) has_flag: bool,
    pub(super) is_switch: bool,
    pub(super) env: &'static [&'static str],
    pub(super) default: Option<&'static str>,
    pub(super) value_name: &'static str,
    pub(super) help: &'static str,
}

impl Setting {
    /// A setting with this dotted key in the file; its flag is the key with `-` for `.`.
    #[must_use]
    pub const fn new(key: &'static str, value_name: &'static str, help: &'static str) -> Self {
        Self {
            name: key,
            in_file: true,
            flag: None,
            has_flag: true,
            is_switch: false,
            env: &[],
            default: None,
            value_name,
            help,
        }
    }

    /// A setting that has a flag and variables but no place in the file.
    #[must_use]
    pub const fn unfiled(name: &'static str, value_name: &'static str, help: &'static str) -> Self {
        Self {
            in_file: false,
            ..Self::new(name, value_name, help)
        }
    }

    /// A secret: in the environment alone, since a command line is readable by every user of the machine.
    #[must_use]
    pub const fn secret(name: &'static str, help: &'static str) -> Self {
        Self {
            in_file: false,
            has_flag: false,
            ..Self::new(name, "", help)
        }
    }

    /// Without a flag, for what can hold a secret: a command line is readable by every user of the machine.
    #[must_use]
    pub const fn without_flag(self) -> Self {
        Self {
            has_flag: false,
            ..self
        }
    }

    /// The variables that set it: the first is its name, the others are read when that is unset.
    #[must_use]
    pub const fn env(self, env: &'static [&'static str]) -> Self {
        Self { env, ..self }
    }

    /// What it is when nothing sets it.
    #[must_use]
    pub const fn default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    /// Its flag, where the key does not give it.
    #[must_use]
    pub const fn flag(self, flag: &'static str) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }

    /// A yes or no, whose flag may stand alone for `true`.
    #[must_use]
    pub const fn switch(self) -> Self {
        Self {
            is_switch: true,
            value_name: "true|false",
            ..self
        }
    }

    /// The dotted key in the file.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        self.in_file.then_some(self.name)
    }

    /// The variables that set it, the usual one first.
    #[must_use]
    pub fn variables(&self) -> &'static [&'static str] {
        self.env
    }

    /// The flag, without its dashes.
    #[must_use]
    pub fn flag_name(&self) -> Option<String> {
        self.has_flag.then(|| {
            self.flag
                .map_or_else(|| self.name.replace('.', "-"), str::to_owned)
        })
    }

    /// Where an operator can set it, for a message: `local.listen, BROKER_LOCAL_LISTEN, --local-listen`.
    #[must_use]
    pub fn places(&self) -> String {
        let key = self.key().map(str::to_owned);
        let variables = self.env.iter().map(|name| (*name).to_owned());
        let flag = self.flag_name().map(|flag| format!("--{flag}"));
        key.into_iter()
            .chain(variables)
            .chain(flag)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Its argument on the command line, where it has one.
    #[must_use]
    pub fn argument(&self) -> Option<Arg> {
        let flag = self.flag_name()?;
        let arg = Arg::new(self.name)
            .long(flag)
            .value_name(self.value_name)
            .help(self.argument_help());
        Some(if self.is_switch {
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            arg
        })
    }

    fn argument_help(&self) -> String {
        let mut help = self.help.to_owned();
        if !self.env.is_empty() {
            help.push_str(&format!(" [env: {}]", self.env.join(", ")));
        }
        if let Some(default) = self.default {
            help.push_str(&format!(" [default: {default}]"));
        }
        help
    }
}

/// A part of the file that is a list or a map, and so has neither flag nor variable.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its key in the file.
    pub key: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What it looks like, in YAML, for the reference.
    pub example: &'static str,
}

/// Settings that belong together, for the reference and the help.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// The scalar settings.
    pub settings: &'static [Setting],
    /// The lists and maps.
    pub sections: &'static [Section],
}

/// Everything that a program can be told.
#[derive(Debug)]
pub struct Table {
    /// Names the settings file.
    pub config: Setting,
    /// All other settings.
    pub groups: &'static [Group],
}

impl Table {
    /// Every scalar setting, the settings file's name first.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        std::iter::once(&self.config).chain(self.groups.iter().flat_map(|group| group.settings))
    }

    /// Every list and map.
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.groups.iter().flat_map(|group| group.sections)
    }

    /// Gives `command` one argument for each setting.
    #[must_use]
    pub fn arguments(&self, command: Command) -> Command {
        let command = command.args(self.config.argument());
        self.groups.iter().fold(command, |command, group| {
            command
                .next_help_heading(group.title)
                .args(group.settings.iter().filter_map(Setting::argument))
        })
    }
}
