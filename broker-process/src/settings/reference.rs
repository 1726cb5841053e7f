//! The settings reference, made from the table itself.

use std::fmt::Write as _;

use super::declaration::{Group, Setting, Table};

/// The reference of one program, in Markdown, under a heading of its own.
#[must_use]
pub fn markdown(program: &str, table: &Table) -> String {
    let mut text = format!("## {program}\n\n{HEAD}{}", row(&table.config));
    for group in table.groups {
        write_group(&mut text, group);
    }
    text
}

const HEAD: &str = "| In the file | Variable | Flag | Default | Meaning |\n|---|---|---|---|---|\n";

fn write_group(text: &mut String, group: &Group) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n### {}\n\n", group.title);
    if !group.settings.is_empty() {
        text.push_str(HEAD);
        text.extend(group.settings.iter().map(row));
    }
    for section in group.sections {
        let _ = write!(
            text,
            "\n`{}`: {}\n\n```yaml\n{}\n```\n",
            section.key,
            section.help,
            section.example.trim_end()
        );
    }
}

fn row(setting: &Setting) -> String {
    let code = |text: &str| format!("`{text}`");
    let variables: Vec<String> = setting.env.iter().map(|name| code(name)).collect();
    format!(
        "| {} | {} | {} | {} | {} |\n",
        setting.key().map(code).unwrap_or_default(),
        variables.join(", "),
        setting
            .flag_name()
            .map(|flag| code(&format!("--{flag}")))
            .unwrap_or_default(),
        setting.default.map(code).unwrap_or_default(),
        setting.help
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_row() {
        const LEVEL: Setting = Setting::new("log.level", "LEVEL", "How much is logged")
            .env(&["LOG_LEVEL"])
            .default("info");
        let table = Table {
            config: Setting::unfiled("config", "FILE", "The settings file"),
            groups: &[Group {
                title: "Logging",
                settings: &[LEVEL],
                sections: &[],
            }],
        };
        assert_eq!(
            markdown("broker", &table),
            "## broker\n\n\
             | In the file | Variable | Flag | Default | Meaning |\n|---|---|---|---|---|\n\
             |  |  | `--config` |  | The settings file |\n\
             \n### Logging\n\n\
             | In the file | Variable | Flag | Default | Meaning |\n|---|---|---|---|---|\n\
             | `log.level` | `LOG_LEVEL` | `--log-level` | `info` | How much is logged |\n"
        );
    }
}
