//! Other programs that this one runs to their end: `ip`, `tc`, `mount` and the like. Each ends at once by itself.

use std::{
    io,
    process::{Command, Stdio},
};

/// Runs a program; its complaint is the error.
pub(super) fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let said = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if said.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&said.stderr).trim().replace('\n', "; ");
    Err(io::Error::other(format!(
        "{program} {}: {complaint}",
        arguments.join(" ")
    )))
}

/// Runs a program whose arguments hold no spaces.
pub(super) fn line(line: &str) -> io::Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, arguments) = words.split_first().expect("a line names a program");
    run(program, arguments)
}
