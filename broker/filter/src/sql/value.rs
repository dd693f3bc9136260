//! Values and how they are compared, with the conversions of the reference.

use std::cmp::Ordering;

use super::number;
use crate::EvaluationError;

/// A value that stands in the expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
}

impl Constant {
    /// Bytes beside its own.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            _ => 0,
        }
    }

    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(value) => Value::Boolean(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Long(value) => Value::Long(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Text(text) => Value::Text(text),
        }
    }
}

/// A value at evaluation. `Int` and `Long` are apart because a property beside them is read as one or the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

impl Value<'_> {
    /// With the other sign; anything but a number becomes null, also a property that reads like one.
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Int(value) => Self::Int(value.wrapping_neg()),
            Self::Long(value) => Self::Long(value.wrapping_neg()),
            Self::Double(value) => Self::Double(-value),
            _ => Self::Null,
        }
    }

    /// The value of a condition; null for what is none.
    pub(super) fn truth(self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(value),
            _ => None,
        }
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(truth: Option<bool>) -> Self {
        truth.map_or(Self::Null, Self::Boolean)
    }
}

/// `left = right`. A missing left side gives null unless the right side is missing as well, a missing right side gives false.
pub(super) fn equal(left: Value<'_>, right: Value<'_>) -> Result<Option<bool>, EvaluationError> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(Some(true)),
        (Value::Null, _) => Ok(None),
        (_, Value::Null) => Ok(Some(false)),
        (Value::Text(left), Value::Text(right)) => Ok(Some(left == right)),
        _ => Ok(Some(compare(left, right)?.is_eq())),
    }
}

/// The order of two values that are not null, for `<` and its like: two texts are numbers.
pub(super) fn order(left: Value<'_>, right: Value<'_>) -> Result<Ordering, EvaluationError> {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => Ok(number::order(double(left)?, double(right)?)),
        _ => compare(left, right),
    }
}

fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, EvaluationError> {
    use Value::{Boolean, Double, Int, Long, Text};
    Ok(match (left, right) {
        (Boolean(left), Boolean(right)) => left.cmp(&right),
        (Text(left), Boolean(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        (Boolean(_), Text(_)) => return Err(EvaluationError::BooleanBesideText),
        (Text(left), Text(right)) => left.cmp(right),
        (Text(left), _) => compare(read_like(left, right)?, right)?,
        (_, Text(right)) => compare(left, read_like(right, left)?)?,
        (Double(left), Double(right)) => number::order(left, right),
        (Double(left), _) => whole(right).map_or(Ordering::Less, |right| number::order(left, right as f64)),
        (_, Double(right)) => whole(left).map_or(Ordering::Less, |left| number::order(left as f64, right)),
        (Int(_) | Long(_), Int(_) | Long(_)) => whole(left).cmp(&whole(right)),
        // Values that have nothing in common: the left one is less.
        _ => Ordering::Less,
    })
}

fn whole(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Int(value) => Some(value.into()),
        Value::Long(value) => Some(value),
        _ => None,
    }
}

/// The text as a number of the kind that `other` is.
fn read_like<'a>(text: &str, other: Value<'a>) -> Result<Value<'a>, EvaluationError> {
    match other {
        Value::Int(_) => number::int(text).map(Value::Int),
        Value::Long(_) => number::long(text).map(Value::Long),
        _ => number::double(text).map(Value::Double),
    }
    .ok_or(EvaluationError::NotANumber)
}

fn double(text: &str) -> Result<f64, EvaluationError> {
    number::double(text).ok_or(EvaluationError::NotANumber)
}
