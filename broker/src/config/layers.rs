//! Puts the sources on top of each other and remembers where each value came from, so that a
//! refusal can name the place to look at.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::{Config, Danger, KEYS, Key, check};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the table's default.
    Default,
    /// In the configuration file.
    File(PathBuf),
    /// In an environment variable of this name.
    Environment(String),
    /// On the command line, with this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path} ({origin}): {source}")]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Where.
        origin: Origin,
        /// From the operating system.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not valid TOML: {reason}")]
    Syntax {
        /// As given.
        path: PathBuf,
        /// With line and column.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{name}` ({origin}){hint}; `flotilla serve --help` lists all keys")]
    UnknownKey {
        /// As written.
        name: String,
        /// Where.
        origin: Origin,
        /// Empty, or the key that may have been meant.
        hint: String,
    },
    /// A value that cannot be read.
    #[error("`{key}` ({origin}): {reason}")]
    BadValue {
        /// Its key.
        key: &'static str,
        /// Where.
        origin: Origin,
        /// For people.
        reason: String,
    },
    /// A variable of ours that is not text.
    #[error("environment variable {name} is not text in UTF-8")]
    NotText {
        /// Its name.
        name: String,
    },
    /// Values that can be read and would do harm.
    #[error("refused: `{key}` ({origin}{cause}): {reason}")]
    Dangerous {
        /// The key to change.
        key: &'static str,
        /// Where it was set.
        origin: Origin,
        /// Empty, or the other key that makes it dangerous, and where that was set.
        cause: String,
        /// What would happen, and what to do.
        reason: String,
    },
}

/// Variables of the same prefix that are no configuration keys.
const OTHER_VARIABLES: &[&str] = &["FLOTILLA_CONFIG", "FLOTILLA_HTTP", "FLOTILLA_LOG"];

/// The sources, the later on top of the earlier.
pub struct Layers {
    values: BTreeMap<&'static str, (toml::Value, Origin)>,
}

impl Layers {
    /// The table's defaults.
    pub fn defaults() -> Layers {
        let read = |key: &'static Key| {
            let value = key.read(key.default?).expect("every default can be read");
            Some((key.name, (value, Origin::Default)))
        };
        Layers {
            values: KEYS.iter().filter_map(read).collect(),
        }
    }

    /// Reads a TOML file, which was named in `origin`, and puts it on top.
    pub fn file(&mut self, path: &Path, origin: Origin) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            origin,
            source,
        })?;
        self.file_text(path, &text)
    }

    /// Puts the text of a TOML file on top.
    pub fn file_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Syntax {
                path: path.to_owned(),
                reason: error.to_string().trim_end().to_owned(),
            })?;
        let mut flat = BTreeMap::new();
        flatten("", &table, &mut flat);
        let origin = Origin::File(path.to_owned());
        for (name, value) in flat {
            let key = Key::find(&name).ok_or_else(|| unknown(&name, &origin))?;
            self.set(key, key.accept(value), origin.clone())?;
        }
        Ok(())
    }

    /// Puts environment variables on top; others than `FLOTILLA_*` are not looked at. One that is empty counts as not
    /// set: compose files and unit files set them so when there is nothing to say.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with("FLOTILLA_") || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let Ok(text) = value.into_string() else {
                return Err(ConfigError::NotText { name });
            };
            match KEYS.iter().find(|key| key.variable() == name) {
                Some(_) if text.trim().is_empty() => {}
                Some(key) => self.set(key, key.read(&text), Origin::Environment(name))?,
                None if is_service_link(&name) => {}
                None => return Err(unknown(&name.clone(), &Origin::Environment(name))),
            }
        }
        Ok(())
    }

    /// Puts flags on top, by the names of their keys.
    pub fn flags(&mut self, flags: &BTreeMap<&'static str, String>) -> Result<(), ConfigError> {
        for (name, text) in flags {
            let key = Key::find(name).expect("flags are made from the table");
            self.set(key, key.read(text), Origin::Flag(key.flag()))?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        key: &'static Key,
        value: Result<toml::Value, String>,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let value = value.map_err(|reason| ConfigError::BadValue {
            key: key.name,
            origin: origin.clone(),
            reason,
        })?;
        self.values.insert(key.name, (value, origin));
        Ok(())
    }

    /// The configuration and its warnings, or why it is refused.
    pub fn build(mut self) -> Result<(Config, Vec<String>), ConfigError> {
        self.derive_peer_addr();
        let config: Config = toml::Value::Table(self.nested())
            .try_into()
            .expect("table of keys and struct agree");
        check(&config)
            .map(|warnings| (config, warnings))
            .map_err(|Danger { key, cause, reason }| {
                let cause = cause.map(|cause| format!("; `{cause}` from {}", self.origin(cause)));
                ConfigError::Dangerous {
                    key,
                    origin: self.origin(key),
                    cause: cause.unwrap_or_default(),
                    reason,
                }
            })
    }

    fn origin(&self, key: &str) -> Origin {
        let set = self.values.get(key);
        set.map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// A node that is told only the cluster listens where the cluster expects it.
    fn derive_peer_addr(&mut self) {
        let text = |key: &str| {
            self.values
                .get(key)
                .map(|(value, origin)| (value.clone(), origin.clone()))
        };
        let (Some((toml::Value::String(cluster), origin)), Some((toml::Value::Integer(id), _))) =
            (text("initial_cluster"), text("node_id"))
        else {
            return;
        };
        let listed: super::InitialCluster = cluster.parse().expect("checked when it was set");
        let own = u32::try_from(id)
            .ok()
            .and_then(|id| listed.nodes().get(&id).cloned());
        if let (Some(own), Some((_, Origin::Default))) = (own, self.values.get("peer_addr")) {
            self.values
                .insert("peer_addr", (toml::Value::String(own), origin));
        }
    }

    fn nested(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for (name, (value, _)) in &self.values {
            match name.split_once('.') {
                None => root.insert((*name).to_owned(), value.clone()),
                Some((table, leaf)) => root
                    .entry(table)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .expect("no key is also a table")
                    .insert(leaf.to_owned(), value.clone()),
            };
        }
        root
    }
}

fn flatten<'t>(prefix: &str, table: &'t toml::Table, into: &mut BTreeMap<String, &'t toml::Value>) {
    for (name, value) in table {
        let name = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) if Key::find(&name).is_none() => flatten(&name, inner, into),
            _ => {
                into.insert(name, value);
            }
        }
    }
}

/// Kubernetes puts the addresses of a service named `flotilla...` into every pod's environment.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT")
        || name.contains("_TCP")
        || name.contains("_UDP")
}

fn unknown(name: &str, origin: &Origin) -> ConfigError {
    let plain = |text: &str| {
        text.trim_start_matches("FLOTILLA_")
            .to_lowercase()
            .replace(['.', '-'], "_")
    };
    let nearest = KEYS
        .iter()
        .map(|key| (distance(&plain(name), &plain(key.name)), key))
        .min_by_key(|(d, _)| *d);
    let hint = match nearest {
        Some((distance, key)) if distance <= 3 => format!(", did you mean `{}`?", key.name),
        _ => String::new(),
    };
    ConfigError::UnknownKey {
        name: name.to_owned(),
        origin: origin.clone(),
        hint,
    }
}

/// Levenshtein's distance, for the hint.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}
