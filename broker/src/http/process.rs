//! What the operating system knows about this process, under the names Prometheus' own clients use.

use std::{fmt::Write, fs};

/// Figures of one process, from `/proc/self`.
#[derive(Debug, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    resident_bytes: u64,
    threads: u64,
}

/// Adds the figures in Prometheus' text format; nothing where there is no `/proc`.
pub(super) fn write(text: &mut String) {
    let clock_ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size() as u64;
    let figures = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| parse(&stat, clock_ticks, page));
    let Some(figures) = figures else { return };
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system CPU time.",
            figures.cpu_seconds,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            figures.resident_bytes as f64,
        ),
        ("process_threads", "gauge", "Threads.", figures.threads as f64),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            open_files as f64,
        ),
    ] {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
            .expect("a String takes all");
    }
}

/// Reads `/proc/PID/stat`. The program's name stands in parentheses and may hold anything, so
/// fields are counted from the last one.
fn parse(stat: &str, clock_ticks: u64, page: u64) -> Option<Figures> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Field 1 of the manual is the process id, and `fields` starts with its field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(Figures {
        cpu_seconds: ticks as f64 / clock_ticks as f64,
        threads: field(20)?,
        resident_bytes: field(24)? * page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_parentheses() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4 10 0 0 0 250 50 0 0 20 0 9 0 100 4096000 300 18446744073709551615";
        let figures = parse(stat, 100, 4096).unwrap();
        assert_eq!(
            figures,
            Figures {
                cpu_seconds: 3.0,
                resident_bytes: 300 * 4096,
                threads: 9
            }
        );
    }

    #[test]
    fn this_process_has_figures() {
        let mut text = String::new();
        write(&mut text);
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
}
