//! What the parser could not read, in words: what is expected instead, and what is often meant.

use pest::error::{Error, ErrorVariant, InputLocation};

use super::grammar::Rule;
use crate::error::{FilterError, Reason, quote};

/// What the parser's error says about `text`.
pub(super) fn refusal(text: &str, error: &Error<Rule>) -> FilterError {
    let at = match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at.min(text.len()),
    };
    let wanted = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => &positives[..],
        ErrorVariant::CustomError { .. } => &[],
    };
    let rest = &text[at..];
    let complete = wanted.contains(&Rule::EOI);
    let found = quote(
        rest.split_inclusive([' ', '\t', '\n', '\r'])
            .next()
            .unwrap_or_default(),
    );
    let advice = advice(&text[..at], rest, !wanted.iter().any(is_operand));
    let reason = match complete {
        true => Reason::TrailingText { found, advice },
        false => Reason::Unexpected {
            expected: expected(wanted),
            found,
            advice,
        },
    };
    FilterError::new(text, at, reason)
}

/// Whether an operand is expected: by the name of its rule, or of one of those that begin with it.
fn is_operand(rule: &Rule) -> bool {
    let lists = [
        Rule::disjunction,
        Rule::conjunction,
        Rule::equality,
        Rule::comparison,
        Rule::unary,
    ];
    lists.contains(rule) || *rule == Rule::name
}

/// The rules as a user knows them, each once.
fn expected(wanted: &[Rule]) -> String {
    if wanted.iter().any(is_operand) {
        return "a property name, a number, a text in single quotes, TRUE, FALSE, NULL, NOT or `(`"
            .to_owned();
    }
    let mut words = Vec::new();
    for rule in wanted {
        let word = match rule {
            Rule::name
            | Rule::truth
            | Rule::falsehood
            | Rule::plus
            | Rule::minus
            | Rule::whole
            | Rule::double => "a property name, a number, a text in single quotes, TRUE, FALSE",
            Rule::text if wanted.contains(&Rule::name) => continue,
            Rule::text => "a text in single quotes",
            Rule::null => "NULL",
            Rule::not => "NOT",
            Rule::open => "`(`",
            Rule::close => "`)`",
            Rule::comma => "`,`",
            Rule::and => "AND",
            Rule::or => "OR",
            Rule::contains => "CONTAINS",
            Rule::starts_with => "STARTSWITH",
            Rule::ends_with => "ENDSWITH",
            Rule::between => "BETWEEN",
            Rule::one_of => "IN",
            Rule::is => "IS",
            _ => "another operator",
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "a condition".to_owned(),
    }
}

/// What is often meant by text that no expression has. `operator` says that an operator is expected, not a value.
fn advice(before: &str, rest: &str, operator: bool) -> Option<&'static str> {
    const BEGINNINGS: [(&str, &str); 9] = [
        ("!=", "not equal is written <>"),
        ("==", "equal is written with one ="),
        ("\"", "texts stand in single quotes, names in none"),
        ("'", "this text has no closing quote"),
        ("/*", "this comment has no end"),
        ("&", "write AND"),
        ("|", "write OR"),
        ("LIKE", "LIKE is not known: use CONTAINS, STARTSWITH or ENDSWITH"),
        (".", "names have letters, digits, _ and $ only"),
    ];
    let begins = |word: &str| {
        rest.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let found = BEGINNINGS
        .into_iter()
        .find(|(word, _)| begins(word))
        .map(|(_, advice)| advice);
    let first = rest.chars().next()?;
    match first {
        '\'' if operator => None,
        '.' if !operator => Some("a number has a digit behind its point, or before it"),
        '=' if before.ends_with('=') => Some("equal is written with one ="),
        '+' | '-' | '*' | '/' | '%' if operator && found.is_none() => {
            Some("there is no arithmetic, and names have letters, digits, _ and $ only")
        }
        '0'..='9' if operator && before.ends_with('0') => Some("whole numbers have no leading zeros"),
        'x' | 'X' if before.ends_with('0') => Some("numbers are decimal"),
        _ if !first.is_ascii() && !first.is_whitespace() => {
            Some("names have letters a to z, digits, _ and $ only")
        }
        _ if first.is_whitespace() || first.is_control() => {
            Some("this is not a blank here: use spaces and line ends")
        }
        _ => found,
    }
}
