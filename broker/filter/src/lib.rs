//! Which messages a subscription takes: the filter expressions of RocketMQ 5, compiled once and evaluated many times.
//!
//! Two kinds: tags (`A || B`), and conditions on a message's properties in a part of SQL92 (`color IN ('red') AND size > 5`).
//! What they mean is what the reference's own library answers, down to its oddities; `tests/cases.txt` is a tour of them, and
//! `make filter-diff` compares the two. One difference is on purpose: text behind a complete expression is refused, where the
//! reference ignores it.
//!
//! The crate is pure: an expression and the properties of a message, nothing else. A hostile expression is refused within the
//! time it takes to read it ([`limits`]), and no property makes an evaluation panic.
//!
//! ```
//! use flotilla_filter::{Expression, Kind};
//!
//! let expression = Expression::compile(Kind::Sql, "color = 'red' AND size > 5").expect("well-formed");
//! let properties = |name: &str| match name {
//!     "color" => Some("red"),
//!     "size" => Some("10"),
//!     _ => None,
//! };
//! assert!(expression.matches(properties));
//! ```

mod error;
pub mod limits;
mod sql;
mod tags;

use thiserror::Error;

pub use crate::error::{FilterError, Position, Reason};

/// The property that holds a message's tag.
pub const TAG_PROPERTY: &str = "TAGS";

/// The language of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tags with `||` between them, or `*`.
    Tag,
    /// A condition on properties.
    Sql,
}

/// A compiled filter expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    form: Form,
}

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Everything,
    Tags(Box<[Box<str>]>),
    Sql(sql::Program),
}

/// Why nothing can be said about a message, which then does not match. It is a property of the message's that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EvaluationError {
    /// A property is compared with a number, or by order, and is none.
    #[error("a property that is compared as a number is not one")]
    NotANumber,
    /// A condition, or TRUE or FALSE, is compared with a property on its right.
    #[error("a condition is compared with a text")]
    BooleanBesideText,
}

impl Expression {
    /// The expression that takes all messages.
    pub const EVERYTHING: Self = Self {
        form: Form::Everything,
    };

    /// Compiles the text of an expression.
    ///
    /// # Errors
    ///
    /// If it is over a bound, or is no expression of the kind: where, and what is wrong there.
    pub fn compile(kind: Kind, text: &str) -> Result<Self, FilterError> {
        if text.len() > limits::MAX_EXPRESSION_BYTES {
            let reason = Reason::TooLong {
                bytes: text.len(),
                limit: limits::MAX_EXPRESSION_BYTES,
            };
            return Err(FilterError::new("", 0, reason));
        }
        let form = match kind {
            Kind::Tag => tags::parse(text)?.map_or(Form::Everything, Form::Tags),
            Kind::Sql => Form::Sql(sql::compile(text)?),
        };
        Ok(Self { form })
    }

    /// Whether it takes all messages without a look at them. (A condition that is always true is not recognised as such.)
    pub fn is_everything(&self) -> bool {
        self.form == Form::Everything
    }

    /// The tags it takes, sorted, each once; `None` if it is not a list of tags. The list is empty for an expression of blanks,
    /// which takes nothing.
    pub fn tags(&self) -> Option<&[Box<str>]> {
        match &self.form {
            Form::Tags(tags) => Some(tags),
            Form::Everything | Form::Sql(_) => None,
        }
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Everything => 0,
            Form::Tags(tags) => tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum(),
            Form::Sql(program) => program.bytes(),
        }
    }

    /// Whether it takes a message with these properties, the system's ones included.
    pub fn matches<'p>(&self, properties: impl Fn(&str) -> Option<&'p str>) -> bool {
        self.evaluate(properties) == Ok(Some(true))
    }

    /// What it says about a message: true, false, or null (`None`) where a missing property leaves it open. Only true matches.
    ///
    /// # Errors
    ///
    /// If a property cannot be compared in the way that the expression asks for; the message does not match.
    pub fn evaluate<'p>(
        &self,
        properties: impl Fn(&str) -> Option<&'p str>,
    ) -> Result<Option<bool>, EvaluationError> {
        match &self.form {
            Form::Everything => Ok(Some(true)),
            Form::Tags(tags) => Ok(Some(properties(TAG_PROPERTY).is_some_and(|tag| {
                tags.binary_search_by(|candidate| (**candidate).cmp(tag)).is_ok()
            }))),
            Form::Sql(program) => program.evaluate(&properties),
        }
    }
}
