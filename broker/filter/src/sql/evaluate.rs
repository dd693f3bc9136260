//! What a compiled expression says about the properties of a message. Nothing is allocated.

use super::{
    program::{Index, Node, Place, Program, Relation},
    value::{self, Value},
};
use crate::EvaluationError;

/// The properties of a message: a name to a value.
pub(crate) type Properties<'f, 'p> = &'f dyn Fn(&str) -> Option<&'p str>;

type Truth = Option<bool>;

impl Program {
    /// True, false, or null for what cannot be said because a property is missing.
    pub(crate) fn evaluate<'p>(&self, properties: Properties<'_, 'p>) -> Result<Truth, EvaluationError> {
        Evaluation {
            nodes: &self.nodes,
            properties,
        }
        .truth(self.nodes.len() - 1)
    }
}

struct Evaluation<'e, 'p> {
    nodes: &'e [Node],
    properties: Properties<'e, 'p>,
}

// It calls itself once per level of operators, of which there are few (limits.rs).
impl<'e> Evaluation<'e, '_> {
    fn truth(&self, index: Index) -> Result<Truth, EvaluationError> {
        Ok(self.value(index)?.truth())
    }

    fn value(&self, index: Index) -> Result<Value<'e>, EvaluationError> {
        Ok(match &self.nodes[index] {
            Node::Constant(constant) => constant.value(),
            Node::Property(name) => (self.properties)(name).map_or(Value::Null, Value::Text),
            // A property is a text, and no text is a condition: not even `true`.
            Node::Truth(operand) => match self.value(*operand)? {
                Value::Null => Value::Null,
                value => Value::Boolean(value.truth() == Some(true)),
            },
            Node::Negate(operand) => self.value(*operand)?.negated(),
            Node::Not(operand) => self.truth(*operand)?.map(|truth| !truth).into(),
            Node::All(terms) => self.first(terms, false)?.into(),
            Node::Any(terms) => self.first(terms, true)?.into(),
            Node::Equal(left, right) => value::equal(self.value(*left)?, self.value(*right)?)?.into(),
            Node::IsNull(operand) => Value::Boolean(self.value(*operand)? == Value::Null),
            Node::Order(relation, left, right) => self.order(*relation, self.value(*left)?, *right)?.into(),
            Node::Range {
                operand,
                low,
                high,
                negated,
            } => self.range(*operand, *low, *high, *negated)?.into(),
            Node::Member {
                operand,
                terms,
                negated,
            } => match self.value(*operand)? {
                Value::Text(text) => {
                    Value::Boolean(terms.binary_search_by(|term| (**term).cmp(text)).is_ok() != *negated)
                }
                _ => Value::Null,
            },
            Node::Search {
                operand,
                place,
                text,
                negated,
            } => Value::Boolean(self.search(*operand, *place, text, *negated)?),
        })
    }

    /// Terms in their order, up to the first that is `decisive`: then what follows may be wrong in any way.
    fn first(&self, terms: &[Index], decisive: bool) -> Result<Truth, EvaluationError> {
        let mut truth = Some(!decisive);
        for term in terms {
            match self.truth(*term)? {
                Some(value) if value == decisive => return Ok(Some(decisive)),
                Some(_) => {}
                None => truth = None,
            }
        }
        Ok(truth)
    }

    /// The right side is not looked at when the left one is null.
    fn order(&self, relation: Relation, left: Value<'e>, right: Index) -> Result<Truth, EvaluationError> {
        if left == Value::Null {
            return Ok(None);
        }
        match self.value(right)? {
            Value::Null => Ok(None),
            right => Ok(Some(relation.holds(value::order(left, right)?))),
        }
    }

    fn range(
        &self,
        operand: Index,
        low: Index,
        high: Index,
        negated: bool,
    ) -> Result<Truth, EvaluationError> {
        let value = self.value(operand)?;
        let (from, to) = match negated {
            false => (Relation::GreaterOrEqual, Relation::LessOrEqual),
            true => (Relation::Less, Relation::Greater),
        };
        // As `value >= low AND value <= high`, and as `value < low OR value > high`.
        let first = self.order(from, value, low)?;
        if first == Some(negated) {
            return Ok(first);
        }
        let second = self.order(to, value, high)?;
        Ok(if second == Some(negated) || first.is_some() {
            second
        } else {
            None
        })
    }

    /// False, whether negated or not, where there is nothing to look for or nothing to look in.
    fn search(
        &self,
        operand: Index,
        place: Place,
        text: &str,
        negated: bool,
    ) -> Result<bool, EvaluationError> {
        if text.is_empty() {
            return Ok(false);
        }
        let Value::Text(value) = self.value(operand)? else {
            return Ok(false);
        };
        let found = match place {
            Place::Anywhere => value.contains(text),
            Place::Start => value.starts_with(text),
            Place::End => value.ends_with(text),
        };
        Ok(found != negated)
    }
}
