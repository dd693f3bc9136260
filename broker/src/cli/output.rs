//! Tables for people, JSON for programs.

use comfy_table::{Cell, CellAlignment, Table, presets::NOTHING};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Prints as the HTTP API would send it, indented.
pub(super) fn json(value: &impl Serialize) {
    println!(
        "{}",
        serde_json::to_string_pretty(value).expect("our own types can be written")
    );
}

/// Prints rows under headings; columns of numbers stand right.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) {
    println!("{}", render(headings, rows));
}

fn render(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    let is_number = |text: &String| text == "-" || text.parse::<u64>().is_ok();
    let numeric: Vec<bool> = (0..headings.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| is_number(&row[column])))
        .collect();
    for row in rows {
        let cell = |(text, number): (String, &bool)| {
            Cell::new(text).set_alignment(if *number {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            })
        };
        table.add_row(row.into_iter().zip(&numeric).map(cell));
    }
    for (column, number) in table.column_iter_mut().zip(&numeric) {
        column.set_padding((0, 2));
        if *number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A value that may be missing.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A point in time, UTC.
pub(super) fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A point in time as people write it: RFC 3339, or milliseconds since 1970.
pub(super) fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| {
        format!("{error}; write it as 2026-11-30T10:00:00Z, or in milliseconds since 1970")
    })?;
    u64::try_from(parsed.unix_timestamp_nanos() / 1_000_000).map_err(|_| "that is before 1970".to_owned())
}

/// Gregorian date of a day counted from 1970-01-01. Years are counted from March, so that the
/// leap day is the last one, in cycles of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / CYCLE, shifted % CYCLE);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (
        cycle * 400 + year + u64::from(month <= 2),
        month,
        day - (153 * march_month + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_795_356_059_999), "2026-11-22 14:00:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn a_time_is_read_as_people_and_programs_write_it() {
        assert_eq!(parse_time("2026-11-22T14:00:59.999Z"), Ok(1_795_356_059_999));
        assert_eq!(parse_time("2026-11-22T15:00:59+01:00"), Ok(1_795_356_059_000));
        assert_eq!(parse_time("1795356059999"), Ok(1_795_356_059_999));
        for wrong in ["", "yesterday", "2026-11-22", "1969-12-31T23:59:59Z", "-5"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = vec![
            vec!["orders".to_owned(), "8".to_owned()],
            vec!["a".to_owned(), "1024".to_owned()],
        ];
        assert_eq!(
            render(&["name", "queues"], rows),
            "NAME    QUEUES\norders       8\na         1024"
        );
    }
}
