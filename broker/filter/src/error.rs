//! Why an expression is refused, and where: in words that whoever wrote it can act on.

use std::fmt;

use thiserror::Error;

/// Characters of the text that an error quotes.
const QUOTED_CHARS: usize = 24;

/// A place in the text of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Bytes before it.
    pub byte: usize,
    /// Line, from 1.
    pub line: usize,
    /// Characters before it in its line, plus 1.
    pub column: usize,
}

impl Position {
    /// The place behind `byte` bytes of `text`.
    pub(crate) fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            byte: before.len(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// An expression that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("filter expression, {position}: {reason}")]
pub struct FilterError {
    /// Where the text stops being an expression.
    pub position: Position,
    /// What is wrong there.
    pub reason: Reason,
}

impl FilterError {
    pub(crate) fn new(text: &str, byte: usize, reason: Reason) -> Self {
        Self {
            position: Position::of(text, byte),
            reason,
        }
    }
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    /// Longer than [`MAX_EXPRESSION_BYTES`](crate::limits::MAX_EXPRESSION_BYTES).
    #[error("it has {bytes} bytes, {limit} are allowed")]
    TooLong { bytes: usize, limit: usize },
    /// More than [`MAX_OPEN_PARENTHESES`](crate::limits::MAX_OPEN_PARENTHESES).
    #[error("more than {limit} parentheses are open here")]
    TooManyParentheses { limit: usize },
    /// More than [`MAX_OPERATOR_LEVELS`](crate::limits::MAX_OPERATOR_LEVELS).
    #[error("more than {limit} operators are applied to one another here")]
    TooManyLevels { limit: usize },
    /// More than [`MAX_OPERATIONS`](crate::limits::MAX_OPERATIONS).
    #[error("it has more than {limit} operations and operands")]
    TooManyOperations { limit: usize },
    /// More than [`MAX_IN_TERMS`](crate::limits::MAX_IN_TERMS).
    #[error("the list after IN has more than {limit} texts")]
    TooManyTerms { limit: usize },
    /// More than [`MAX_TAGS`](crate::limits::MAX_TAGS).
    #[error("it names more than {limit} tags")]
    TooManyTags { limit: usize },
    /// A tag expression of nothing but separators.
    #[error("it has separators but no tag; `*` takes all messages")]
    NoTags,
    /// A SQL expression of nothing but blanks and comments.
    #[error("it is empty; a condition is expected, such as `color = 'red'`")]
    Empty,
    /// Text that no expression has at this place.
    #[error("expected {expected}, found {found}{}", hint(.advice))]
    Unexpected {
        expected: String,
        found: String,
        advice: Option<&'static str>,
    },
    /// Text behind a complete expression. The reference broker ignores it without a word.
    #[error("the expression is complete, but {found} follows; expected AND, OR, another operator or the end{}", hint(.advice))]
    TrailingText {
        found: String,
        advice: Option<&'static str>,
    },
    /// A number or a text where a condition is needed.
    #[error("{found} is not a condition: compare it with something")]
    NotACondition { found: String },
    /// A text, a condition or a constant without order beside `<`, `<=`, `>`, `>=` or BETWEEN.
    #[error("{found} has no order: only numbers and properties can be compared by <, <=, >, >= and BETWEEN")]
    NotOrdered { found: String },
    /// `= NULL` or `<> NULL`.
    #[error("nothing is equal to NULL: use IS NULL or IS NOT NULL")]
    EqualToNull,
    /// TRUE or FALSE on the left of a number or a text.
    #[error("TRUE and FALSE cannot be compared with {found}")]
    BooleanBesideOther { found: String },
    /// BETWEEN with its greater number first.
    #[error("BETWEEN takes the smaller number first")]
    ReversedRange,
    /// IN after something that is not a property.
    #[error("IN needs a property name before it, not {found}")]
    NotAProperty { found: String },
    /// A whole number that does not fit 64 bits.
    #[error("{found} is greater than {}", i64::MAX)]
    WholeNumberTooGreat { found: String },
    /// A decimal number that is infinite or zero as a double. (The reference refuses `0.0` as well.)
    #[error(
        "{found} cannot be stored: a number with a point or an exponent is 4.9E-324 to 1.8E308; zero is written 0"
    )]
    DoubleOutOfRange { found: String },
}

fn hint(advice: &Option<&'static str>) -> String {
    advice.map(|advice| format!(" ({advice})")).unwrap_or_default()
}

/// How an error quotes the beginning of `text`.
pub(crate) fn quote(text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() {
        return "the end".to_owned();
    }
    let mut quoted = String::from("`");
    for (index, c) in text.chars().enumerate() {
        match c {
            _ if index == QUOTED_CHARS => {
                quoted.push('…');
                break;
            }
            '\'' | '"' => quoted.push(c),
            c => quoted.extend(c.escape_debug()),
        }
    }
    quoted + "`"
}
