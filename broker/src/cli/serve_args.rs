//! The flags of `flotilla serve`, one per row of the table of configuration keys, so that its help
//! is the documentation of every key.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{Config, ConfigError, KEYS, Key, Kind, Layers, Origin};

/// Names the file when no flag does. Read here and not by clap, which takes an empty one for a flag without its value.
const CONFIG_VARIABLE: &str = "FLOTILLA_CONFIG";

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub(super) struct ServeArgs {
    config: Option<PathBuf>,
    flags: BTreeMap<&'static str, String>,
}

impl ServeArgs {
    /// Defaults, file, environment and these flags, put on top of each other and checked.
    pub(super) fn load(&self) -> Result<(Config, Vec<String>), ConfigError> {
        self.load_in(std::env::vars_os().collect())
    }

    /// In an environment of these variables.
    pub(super) fn load_in(
        &self,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let mut layers = Layers::defaults();
        if let Some(path) = &self.config {
            layers.file(path, Origin::Flag("config".to_owned()))?;
        } else if let Some((_, path)) = environment.iter().find(|(name, _)| name == CONFIG_VARIABLE)
            && !path.is_empty()
        {
            layers.file(Path::new(path), Origin::Environment(CONFIG_VARIABLE.to_owned()))?;
        }
        layers.environment(environment)?;
        layers.flags(&self.flags)?;
        layers.build()
    }
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with any of the keys below; the environment goes over it, flags over both [env: FLOTILLA_CONFIG]");
        command.arg(config).args(KEYS.iter().map(flag)).after_help(
            "Every flag is also a key of the TOML file and an environment variable; both stand with it. \
                 A dot in a key is a table: `raft.heartbeat` is `heartbeat` under `[raft]`. \
                 Log lines go to stderr; FLOTILLA_LOG (or RUST_LOG) chooses them, as in info,broker=debug.",
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(key: &'static Key) -> Arg {
    let default = key.default.map_or_else(|| "not set".to_owned(), str::to_owned);
    let help = format!(
        "{}\n[file: {}] [env: {}] [default: {default}]",
        key.help,
        key.name,
        key.variable()
    );
    let arg = Arg::new(key.name)
        .long(key.flag())
        .value_name(key.placeholder())
        .action(ArgAction::Set)
        .help(help);
    match key.kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
        Ok(ServeArgs {
            config: matches.get_one::<PathBuf>("config").cloned(),
            flags: KEYS.iter().filter_map(given).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
