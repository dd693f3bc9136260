//! A naive evaluator of a tree of its own: boxes, strings and exact numbers, nothing in common with the crate.
//!
//! It knows plain numbers only (signs, digits, a point), and reads them as fractions of big powers of ten.

use std::collections::BTreeMap;

/// A condition.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    True,
    False,
    Null,
    Bare(&'static str),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    IsNull(Box<Condition>, bool),
    Missing(&'static str, bool),
    Equals(&'static str, Literal, bool),
    Is(&'static str, bool),
    Compares(&'static str, &'static str, Literal),
    Between(&'static str, Literal, Literal, bool),
    In(&'static str, Vec<&'static str>, bool),
    Contains(&'static str, &'static str, bool),
}

/// A constant beside a property.
#[derive(Debug, Clone)]
pub(crate) enum Literal {
    Text(&'static str),
    Whole(i64),
    /// In hundredths.
    Decimal(i64),
}

/// What a condition says: `None` for null, an error for a property that cannot be compared.
pub(crate) type Said = Result<Option<bool>, ()>;

impl Literal {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Self::Whole(number) => number.to_string(),
            Self::Decimal(hundredths) => {
                let (sign, size) = (if *hundredths < 0 { "-" } else { "" }, hundredths.abs());
                format!("{sign}{}.{:02}", size / 100, size % 100)
            }
        }
    }

    /// The property and the literal in hundredths, if the property is a number in the literal's sense.
    fn numbers(&self, property: &str) -> Result<(i128, i128), ()> {
        match self {
            Self::Text(_) => Err(()),
            Self::Whole(number) => {
                let value: i64 = property.parse().map_err(|_| ())?;
                let small = i32::try_from(*number).is_err() || i32::try_from(value).is_ok();
                if small {
                    Ok((i128::from(value) * 100, i128::from(*number) * 100))
                } else {
                    Err(())
                }
            }
            Self::Decimal(hundredths) => Ok((in_hundredths(property)?, i128::from(*hundredths))),
        }
    }
}

fn in_hundredths(property: &str) -> Result<i128, ()> {
    let property = property.trim_matches(' ');
    let (negative, digits) = match property.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, property.strip_prefix('+').unwrap_or(property)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !(whole.to_owned() + fraction).bytes().all(|c| c.is_ascii_digit())
    {
        return Err(());
    }
    assert!(fraction.len() <= 2, "the naive evaluator has no such property");
    let value: i128 = format!("0{whole}{fraction:0<2}").parse().map_err(|_| ())?;
    Ok(if negative { -value } else { value })
}

impl Condition {
    /// As an expression.
    pub(crate) fn text(&self) -> String {
        let not = |negated: &bool| if *negated { " NOT" } else { "" };
        match self {
            Self::True => "TRUE".to_owned(),
            Self::False => "FALSE".to_owned(),
            Self::Null => "NULL".to_owned(),
            Self::Bare(name) => (*name).to_owned(),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
            Self::And(left, right) => format!("({}) AND ({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({}) OR ({})", left.text(), right.text()),
            Self::IsNull(inner, negated) => format!("({}) IS{} NULL", inner.text(), not(negated)),
            Self::Missing(name, negated) => format!("{name} IS{} NULL", not(negated)),
            Self::Equals(name, literal, negated) => {
                format!("{name} {} {}", if *negated { "<>" } else { "=" }, literal.text())
            }
            Self::Is(name, value) => format!("{name} = {value}"),
            Self::Compares(name, order, literal) => format!("{name} {order} {}", literal.text()),
            Self::Between(name, low, high, negated) => {
                format!(
                    "{name}{} BETWEEN {} AND {}",
                    not(negated),
                    low.text(),
                    high.text()
                )
            }
            Self::In(name, texts, negated) => {
                let list: Vec<String> = texts.iter().map(|text| Literal::Text(text).text()).collect();
                format!("{name}{} IN ({})", not(negated), list.join(", "))
            }
            Self::Contains(name, text, negated) => {
                format!("{name}{} CONTAINS {}", not(negated), Literal::Text(text).text())
            }
        }
    }

    /// What it says about a message.
    pub(crate) fn said(&self, properties: &BTreeMap<&'static str, String>) -> Said {
        let negate = |said: Option<bool>, negated: bool| said.map(|value| value != negated);
        let property = |name: &str| properties.get(name).cloned();
        Ok(match self {
            Self::True => Some(true),
            Self::False => Some(false),
            Self::Null => None,
            Self::Bare(name) => property(name).map(|_| false),
            Self::Not(inner) => negate(inner.said(properties)?, true),
            Self::And(left, right) => match left.said(properties)? {
                Some(false) => Some(false),
                Some(true) => right.said(properties)?,
                None => right.said(properties)?.filter(|value| !value),
            },
            Self::Or(left, right) => match left.said(properties)? {
                Some(true) => Some(true),
                Some(false) => right.said(properties)?,
                None => right.said(properties)?.filter(|value| *value),
            },
            Self::IsNull(inner, negated) => Some(inner.said(properties)?.is_none() != *negated),
            Self::Missing(name, negated) => Some(property(name).is_none() != *negated),
            Self::Equals(name, literal, negated) => match (property(name), literal) {
                (None, _) => None,
                (Some(value), Literal::Text(text)) => negate(Some(value == *text), *negated),
                (Some(value), number) => {
                    let (left, right) = number.numbers(&value)?;
                    negate(Some(left == right), *negated)
                }
            },
            Self::Is(name, value) => property(name).map(|text| (text.to_lowercase() == "true") == *value),
            Self::Compares(name, order, literal) => match property(name) {
                None => None,
                Some(value) => Some(compared(order, literal.numbers(&value)?)),
            },
            Self::Between(name, low, high, negated) => match property(name) {
                None => None,
                Some(value) => {
                    let above = compared(">=", low.numbers(&value)?);
                    Some((above && compared("<=", high.numbers(&value)?)) != *negated)
                }
            },
            Self::In(name, texts, negated) => {
                property(name).map(|value| texts.contains(&&*value) != *negated)
            }
            Self::Contains(name, text, negated) => Some(match property(name) {
                Some(value) if !text.is_empty() => value.contains(text) != *negated,
                _ => false,
            }),
        })
    }
}

fn compared(order: &str, (left, right): (i128, i128)) -> bool {
    match order {
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        _ => left >= right,
    }
}
