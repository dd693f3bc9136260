//! A pair of an expression and the properties of a message, and how it is written in one line for the reference's program.

use std::collections::BTreeMap;

use flotilla_filter::{EvaluationError, Expression, Kind};

/// An expression and the properties that it is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) properties: BTreeMap<String, String>,
}

impl Pair {
    /// Fields with tabs between: the kind, the expression, names and values.
    pub(crate) fn line(&self) -> String {
        let mut line = String::from(if self.kind == Kind::Tag { "tag" } else { "sql" });
        let properties = self.properties.iter().flat_map(|(name, value)| [name, value]);
        for field in std::iter::once(&self.text).chain(properties) {
            line.push('\t');
            for c in field.chars() {
                match c {
                    '\\' => line.push_str("\\\\"),
                    '\t' => line.push_str("\\t"),
                    '\n' => line.push_str("\\n"),
                    '\r' => line.push_str("\\r"),
                    c => line.push(c),
                }
            }
        }
        line
    }

    /// What this crate answers.
    pub(crate) fn answer(&self) -> &'static str {
        let Ok(expression) = Expression::compile(self.kind, &self.text) else {
            return "refused";
        };
        word(expression.evaluate(|name| self.properties.get(name).map(String::as_str)))
    }
}

/// Whether ours is what the reference's answer asks for: what it takes while it ignores the rest is refused here.
pub(crate) fn agree(ours: &str, reference: &str) -> bool {
    ours == if reference.starts_with("trailing ") {
        "refused"
    } else {
        reference
    }
}

/// The answer in a word.
pub(crate) fn word(answer: Result<Option<bool>, EvaluationError>) -> &'static str {
    match answer {
        Ok(Some(true)) => "true",
        Ok(Some(false)) => "false",
        Ok(None) => "null",
        Err(_) => "error",
    }
}
