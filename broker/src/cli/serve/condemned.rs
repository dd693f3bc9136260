//! Damaged stored data: once the other nodes can do without it, the data directory is set aside, and the same process
//! starts again with an empty one, which the other nodes fill. What was set aside is kept for a person to look at; the
//! empty one remembers that there was data once, so that no empty cluster is ever formed in its place.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use tracing::error;

use super::spared;
use crate::{config::Config, grpc::tls, node::identity::HAD_DATA};

/// Rebuilding takes a majority of other nodes.
const MIN_NODES: usize = 3;

/// Sets the data directory aside and starts the program anew in this process, if other nodes can rebuild it. A node that
/// served what is whole until now, `can_serve`, goes on with that if they cannot after all.
pub(super) fn start_again(config: &Config, reason: &str, can_serve: bool) -> ExitCode {
    let nodes = config
        .initial_cluster
        .as_ref()
        .map_or(1, |cluster| cluster.nodes().len());
    if nodes < MIN_NODES {
        error!(
            reason,
            data_dir = %config.data_dir.display(),
            "stored data is damaged, and a cluster of {nodes} cannot rebuild it: restore the data directory from a copy, \
             or move it away to start empty"
        );
        return ExitCode::FAILURE;
    }
    match spared::wait(config, reason, can_serve) {
        Ok(true) => {}
        Ok(false) => {
            error!(
                reason,
                "stored data is damaged, and nothing was touched: the node goes back to serve what is whole"
            );
            return not_restarted(restart());
        }
        Err(cause) => {
            error!(reason, %cause, "stored data is damaged, and nothing was touched");
            return ExitCode::FAILURE;
        }
    }
    match set_aside(&config.data_dir) {
        Ok(place) => error!(
            reason,
            kept = %place.display(),
            "stored data is damaged: it was set aside, and the other nodes rebuild this one"
        ),
        Err(cause) => {
            error!(
                reason,
                %cause,
                data_dir = %config.data_dir.display(),
                "stored data is damaged and could not be set aside: move the directory away and start the node again"
            );
            return ExitCode::FAILURE;
        }
    }
    not_restarted(restart())
}

fn not_restarted(cause: io::Error) -> ExitCode {
    error!(%cause, "the program could not be started anew: start it again");
    ExitCode::FAILURE
}

/// Returns only if it fails.
fn restart() -> io::Error {
    let mut arguments = std::env::args_os();
    let typed = arguments.next().unwrap_or_else(|| OsString::from("flotilla"));
    let program = std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .map_or(typed, OsString::from);
    Command::new(program).args(arguments).exec()
}

/// Moves the content of `data_dir` away and leaves an empty directory with the clients' certificate.
fn set_aside(data_dir: &Path) -> io::Result<PathBuf> {
    let copies = copies(data_dir)?;
    let next = copies.last().map_or(1, |(number, _)| number + 1);
    let place = named(data_dir, next);
    match fs::rename(data_dir, &place) {
        Ok(()) => fs::create_dir(data_dir)?,
        // The directory itself cannot be moved, for instance because it is a mounted volume.
        Err(_) => move_content(data_dir, &place)?,
    }
    let certificate = place.join(tls::FOLDER);
    if certificate.exists() {
        // Clients that trust it go on trusting it.
        fs::rename(certificate, data_dir.join(tls::FOLDER))?;
    }
    note(data_dir)?;
    sync(&place)?;
    sync(&parent_of(&place))?;
    sync(&parent_of(data_dir))?;
    // The first copy and the newest are kept, so that damage does not fill the disk: the first is what the node had before
    // anything was rebuilt, and may be the only one that is worth something.
    for (_, path) in copies.into_iter().skip(1) {
        fs::remove_dir_all(path)?;
    }
    Ok(place)
}

/// Before a start: where a copy was set aside, there was data once, also if a crash came before that was written down.
pub(super) fn remember(data_dir: &Path) -> io::Result<()> {
    if data_dir.join(HAD_DATA).try_exists()? {
        return Ok(());
    }
    match copies(data_dir) {
        Ok(copies) if copies.is_empty() => Ok(()),
        Ok(_) => {
            fs::create_dir_all(data_dir)?;
            note(data_dir)
        }
        // Where it may not look it has set nothing aside.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes down durably that there was data once.
fn note(data_dir: &Path) -> io::Result<()> {
    File::create(data_dir.join(HAD_DATA))?.sync_all()?;
    sync(data_dir)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Beside the data directory if possible; `DIR.condemned-N`.
fn named(data_dir: &Path, number: u32) -> PathBuf {
    let mut name = data_dir
        .file_name()
        .map_or_else(|| OsString::from("data"), OsString::from);
    name.push(format!(".condemned-{number}"));
    match data_dir.parent() {
        Some(parent) if is_movable(data_dir) => parent.join(name),
        _ => data_dir.join(name),
    }
}

/// A mounted volume is on another device than its parent, and cannot be renamed.
fn is_movable(data_dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let parent = match data_dir.parent() {
        None => return false,
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    match (fs::metadata(data_dir), fs::metadata(parent)) {
        (Ok(own), Ok(parent)) => own.dev() == parent.dev(),
        // A crash came between moving it away and making it anew: what is not there is no mounted volume.
        (Err(error), Ok(_)) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Copies of earlier times, oldest first.
fn copies(data_dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let first = named(data_dir, 1);
    let name = first
        .file_name()
        .expect("just named")
        .to_string_lossy()
        .into_owned();
    let prefix = name.trim_end_matches('1');
    let mut found = Vec::new();
    let entries = match fs::read_dir(parent_of(&first)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

fn move_content(data_dir: &Path, place: &Path) -> io::Result<()> {
    fs::create_dir(place)?;
    // First who it was: after a crash between two moves what is left is damaged or nobody's, and never takes part again as what
    // it was.
    for name in ["IDENTITY", "NODE"] {
        match fs::rename(data_dir.join(name), place.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync(data_dir)?,
        }
    }
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let name = path.file_name().expect("an entry has a name");
        if !name.to_string_lossy().contains(".condemned-") {
            fs::rename(&path, place.join(name))?;
        }
    }
    sync(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(data_dir: &Path, text: &str) {
        fs::write(data_dir.join("log"), text).unwrap();
        fs::create_dir_all(data_dir.join("tls")).unwrap();
        fs::write(data_dir.join("tls/key.pem"), "key").unwrap();
    }

    #[test]
    fn the_directory_is_set_aside_and_the_certificate_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("node-1");
        fs::create_dir(&data_dir).unwrap();
        fill(&data_dir, "one");
        let place = set_aside(&data_dir).unwrap();
        assert_eq!(place, folder.path().join("node-1.condemned-1"));
        assert_eq!(fs::read_to_string(place.join("log")).unwrap(), "one");
        assert!(!data_dir.join("log").exists());
        assert_eq!(fs::read_to_string(data_dir.join("tls/key.pem")).unwrap(), "key");
    }

    #[test]
    fn the_first_copy_and_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("node-1");
        fs::create_dir(&data_dir).unwrap();
        for text in ["one", "two", "three", "four"] {
            fill(&data_dir, text);
            set_aside(&data_dir).unwrap();
        }
        let kept = copies(&data_dir).unwrap();
        let texts: Vec<_> = kept
            .iter()
            .map(|(_, path)| fs::read_to_string(path.join("log")).unwrap())
            .collect();
        assert_eq!(texts, ["one", "four"]);
    }

    #[test]
    fn an_emptied_directory_remembers_that_there_was_data() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("node-1");
        remember(&data_dir).unwrap();
        assert!(!data_dir.exists(), "nothing was set aside yet");
        fs::create_dir(&data_dir).unwrap();
        fill(&data_dir, "one");
        set_aside(&data_dir).unwrap();
        assert!(data_dir.join(HAD_DATA).exists());
        // As if a crash had come before it was written down.
        fs::remove_dir_all(&data_dir).unwrap();
        remember(&data_dir).unwrap();
        assert!(data_dir.join(HAD_DATA).exists());
    }

    #[test]
    fn content_is_moved_where_the_directory_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path();
        fill(data_dir, "one");
        let place = data_dir.join("node-1.condemned-1");
        move_content(data_dir, &place).unwrap();
        assert_eq!(fs::read_to_string(place.join("log")).unwrap(), "one");
        assert!(!data_dir.join("log").exists());
    }

    #[test]
    fn a_single_node_is_never_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::zero();
        config.data_dir = folder.path().join("data");
        fs::create_dir(&config.data_dir).unwrap();
        fill(&config.data_dir, "precious");
        assert_eq!(start_again(&config, "a test", false), ExitCode::FAILURE);
        assert_eq!(
            fs::read_to_string(config.data_dir.join("log")).unwrap(),
            "precious"
        );
    }
}
