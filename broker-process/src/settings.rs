//! Settings: declared once in a table, layered flag over environment over file over default.

mod declaration;
mod document;
mod environment;
mod file;
mod reading;
mod reference;
mod value;

pub use declaration::{Group, Section, Setting, Table};
pub use document::Document;
pub use environment::Environment;
pub use file::{Fields, Node};
pub use reading::{Settings, SettingsError};
pub use reference::markdown;
pub use value::{boolean, duration, integer, nearest, path, positive_duration, shown};
