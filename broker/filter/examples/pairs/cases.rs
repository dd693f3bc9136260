//! Reads the table of cases, `tests/cases.txt`; how it is written stands at its top.

use std::collections::BTreeMap;

use flotilla_filter::Kind;

use super::pair::Pair;

/// A line of the table: what is asked, and the answer.
pub(crate) struct Case {
    /// Its line in the table.
    pub(crate) line: usize,
    pub(crate) pair: Pair,
    /// A word as in [`Pair::answer`], or `trailing`: refused here, taken by the reference.
    pub(crate) answer: String,
    /// Line and column of a refusal, where the table says it.
    pub(crate) position: Option<String>,
}

/// All cases of the table.
///
/// # Panics
///
/// If a line is not written as it should be.
pub(crate) fn read(table: &str) -> Vec<Case> {
    let (mut cases, mut asked) = (Vec::new(), None);
    for (index, line) in table.lines().enumerate() {
        let line_number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (question, answer) = match line.rsplit_once(" -> ") {
            Some((question, answer)) => (
                question.trim(),
                answer
                    .split_once(" #")
                    .map_or(answer, |(answer, _)| answer)
                    .trim(),
            ),
            None => (line.trim(), ""),
        };
        let properties = if line.starts_with(' ') {
            properties(question, line_number)
        } else {
            asked = Some(expression(question, line_number));
            BTreeMap::new()
        };
        if answer.is_empty() {
            continue;
        }
        let (kind, text) = asked
            .clone()
            .unwrap_or_else(|| panic!("line {line_number}: no expression above"));
        let (answer, position) = match answer.split_once(" at ") {
            Some((answer, position)) => (answer.to_owned(), Some(position.to_owned())),
            None => (answer.to_owned(), None),
        };
        cases.push(Case {
            line: line_number,
            pair: Pair {
                kind,
                text,
                properties,
            },
            answer,
            position,
        });
    }
    cases
}

fn expression(question: &str, line: usize) -> (Kind, String) {
    let (kind, text) = question
        .split_once(" `")
        .unwrap_or_else(|| panic!("line {line}: no expression"));
    let text = text
        .strip_suffix('`')
        .unwrap_or_else(|| panic!("line {line}: the expression has no end"));
    (if kind == "tag" { Kind::Tag } else { Kind::Sql }, unescaped(text))
}

fn properties(question: &str, line: usize) -> BTreeMap<String, String> {
    let (mut properties, mut rest) = (BTreeMap::new(), question);
    while let Some((name, value)) = rest.split_once("=\"") {
        let (value, behind) = value
            .split_once('"')
            .unwrap_or_else(|| panic!("line {line}: a value has no end"));
        properties.insert(name.trim().to_owned(), unescaped(value));
        rest = behind;
    }
    assert!(
        rest.trim().is_empty() || rest.trim() == "none",
        "line {line}: {rest}"
    );
    properties
}

/// With what `\n`, `\t`, `\r` and `\u{…}` stand for.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            (_, Some('n')) => out.push('\n'),
            (_, Some('t')) => out.push('\t'),
            (_, Some('r')) => out.push('\r'),
            (_, Some('u')) => {
                let code: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or_else(|| panic!("no character in {text}")));
            }
            (_, Some(other)) => out.push(other),
            (c, None) => out.push(c),
        }
    }
    out
}
