//! From the parsed text to a program: what may be compared with what, and which numbers there are.

use std::cmp::Ordering;

use pest::iterators::{Pair, Pairs};

use super::{
    grammar::Rule,
    program::{Index, Node, Place, Program, Relation},
    value::{self, Constant},
};
use crate::{
    error::{FilterError, Reason, quote},
    limits::{MAX_IN_TERMS, MAX_OPERATIONS, MAX_OPERATOR_LEVELS},
};

/// Compiles what the grammar has found in `text`.
pub(super) fn compile(text: &str, mut pairs: Pairs<'_, Rule>) -> Result<Program, FilterError> {
    let mut compiler = Compiler {
        text,
        nodes: Vec::new(),
        levels: Vec::new(),
    };
    let whole = compiler.next(&mut pairs, Span { at: 0, end: 0 }, Compiler::disjunction)?;
    let index = compiler.condition(whole)?;
    // The last node is the whole expression: a condition's node is made after all that it is applied to.
    compiler.nodes.truncate(index + 1);
    Ok(Program {
        nodes: compiler.nodes.into(),
    })
}

struct Compiler<'t> {
    text: &'t str,
    nodes: Vec<Node>,
    /// For each node, the levels of nodes that an evaluation goes down, its own included.
    levels: Vec<usize>,
}

/// A compiled part of the expression.
#[derive(Clone, Copy)]
struct Operand {
    index: Index,
    class: Class,
    span: Span,
}

/// Where a text begins and ends, in bytes.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    end: usize,
}

impl Span {
    fn of(pair: &Pair<'_, Rule>) -> Self {
        Self {
            at: pair.as_span().start(),
            end: pair.as_span().end(),
        }
    }

    /// From where this begins to where `other` ends.
    fn to(self, other: Self) -> Self {
        Self {
            at: self.at,
            end: other.end,
        }
    }
}

/// What the compiler must know about an operand. A sign before a number makes it a `Signed`, whose value is not looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Property,
    Number,
    Text,
    Boolean,
    Null,
    Signed,
    Condition,
}

type Compiled = Result<Operand, FilterError>;

impl Compiler<'_> {
    fn disjunction(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        self.terms(pair, Rule::or, Self::conjunction, Node::Any)
    }

    fn conjunction(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        self.terms(pair, Rule::and, Self::equality, Node::All)
    }

    /// One term stays what it is; several become conditions.
    fn terms(
        &mut self,
        pair: Pair<'_, Rule>,
        separator: Rule,
        term: fn(&mut Self, Pair<'_, Rule>) -> Compiled,
        node: fn(Box<[Index]>) -> Node,
    ) -> Compiled {
        let span = Span::of(&pair);
        let mut operands = Vec::new();
        for pair in pair.into_inner().filter(|pair| pair.as_rule() != separator) {
            operands.push(term(self, pair)?);
        }
        if let [operand] = operands[..] {
            return Ok(operand);
        }
        let indexes = operands
            .into_iter()
            .map(|operand| self.condition(operand))
            .collect::<Result<Box<[_]>, _>>()?;
        self.push(node(indexes), Class::Condition, span)
    }

    fn equality(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        let span = Span::of(&pair);
        let mut pairs = pair.into_inner();
        let mut left = self.next(&mut pairs, span, Self::comparison)?;
        while let Some(operator) = pairs.next() {
            let negated = if operator.as_rule() == Rule::nullness {
                left = self.push(
                    Node::IsNull(left.index),
                    Class::Condition,
                    span.to(Span::of(&operator)),
                )?;
                operator.into_inner().any(|pair| pair.as_rule() == Rule::not)
            } else {
                let right = self.next(&mut pairs, span, Self::comparison)?;
                self.check_equality(left, right)?;
                left = self.push(
                    Node::Equal(left.index, right.index),
                    Class::Condition,
                    span.to(right.span),
                )?;
                operator.as_rule() == Rule::differs
            };
            if negated {
                left = self.push(Node::Not(left.index), Class::Condition, left.span)?;
            }
        }
        Ok(left)
    }

    fn comparison(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        let span = Span::of(&pair);
        let mut pairs = pair.into_inner();
        let mut left = self.next(&mut pairs, span, Self::unary)?;
        while let Some(operator) = pairs.next() {
            left = match operator.as_rule() {
                Rule::search => self.search(left, operator)?,
                Rule::range => self.range(left, operator)?,
                Rule::member => self.member(left, operator)?,
                _ => {
                    let relation = match operator.as_str() {
                        "<" => Relation::Less,
                        "<=" => Relation::LessOrEqual,
                        ">" => Relation::Greater,
                        _ => Relation::GreaterOrEqual,
                    };
                    let right = self.next(&mut pairs, span, Self::unary)?;
                    self.check_order(left)?;
                    self.check_order(right)?;
                    let node = Node::Order(relation, left.index, right.index);
                    self.push(node, Class::Condition, span.to(right.span))?
                }
            };
        }
        Ok(left)
    }

    fn search(&mut self, operand: Operand, pair: Pair<'_, Rule>) -> Compiled {
        let span = operand.span.to(Span::of(&pair));
        let (mut negated, mut place, mut text) = (false, Place::Anywhere, Box::default());
        for pair in pair.into_inner() {
            match pair.as_rule() {
                Rule::not => negated = true,
                Rule::starts_with => place = Place::Start,
                Rule::ends_with => place = Place::End,
                Rule::text => text = unquoted(pair.as_str()),
                _ => {}
            }
        }
        self.push(
            Node::Search {
                operand: operand.index,
                place,
                text,
                negated,
            },
            Class::Condition,
            span,
        )
    }

    fn range(&mut self, operand: Operand, pair: Pair<'_, Rule>) -> Compiled {
        let span = operand.span.to(Span::of(&pair));
        let negated = pair.clone().into_inner().any(|pair| pair.as_rule() == Rule::not);
        let mut bounds = pair.into_inner().filter(|pair| pair.as_rule() == Rule::unary);
        let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else {
            return Err(self.error(span, Reason::Empty));
        };
        let (low, high) = (self.unary(low)?, self.unary(high)?);
        for operand in [operand, low, high] {
            self.check_order(operand)?;
        }
        if !negated
            && let (Node::Constant(from), Node::Constant(to)) =
                (&self.nodes[low.index], &self.nodes[high.index])
            && value::order(from.value(), to.value()).is_ok_and(Ordering::is_gt)
        {
            return Err(self.error(low.span, Reason::ReversedRange));
        }
        let node = Node::Range {
            operand: operand.index,
            low: low.index,
            high: high.index,
            negated,
        };
        self.push(node, Class::Condition, span)
    }

    fn member(&mut self, operand: Operand, pair: Pair<'_, Rule>) -> Compiled {
        if operand.class != Class::Property {
            return Err(self.error(
                operand.span,
                Reason::NotAProperty {
                    found: self.quoted(operand),
                },
            ));
        }
        let span = operand.span.to(Span::of(&pair));
        let (mut negated, mut terms) = (false, Vec::new());
        for pair in pair.into_inner() {
            match pair.as_rule() {
                Rule::not => negated = true,
                Rule::text if terms.len() == MAX_IN_TERMS => {
                    return Err(self.error(Span::of(&pair), Reason::TooManyTerms { limit: MAX_IN_TERMS }));
                }
                Rule::text => terms.push(unquoted(pair.as_str())),
                _ => {}
            }
        }
        terms.sort_unstable();
        terms.dedup();
        self.push(
            Node::Member {
                operand: operand.index,
                terms: terms.into(),
                negated,
            },
            Class::Condition,
            span,
        )
    }

    fn unary(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        let span = Span::of(&pair);
        let (mut signs, mut inner) = (Vec::new(), span);
        let mut operand = None;
        for pair in pair.into_inner() {
            match pair.as_rule() {
                Rule::plus | Rule::minus | Rule::not => signs.push((pair.as_rule(), Span::of(&pair))),
                Rule::open => inner = Span::of(&pair).to(span),
                Rule::close => {}
                // In parentheses a property is still a property.
                Rule::disjunction => {
                    operand = Some(Operand {
                        span: inner,
                        ..self.disjunction(pair)?
                    })
                }
                _ => operand = Some(self.primary(pair)?),
            }
        }
        let Some(mut operand) = operand else {
            return Err(self.error(span, Reason::Empty));
        };
        for (sign, at) in signs.into_iter().rev() {
            let span = at.to(span);
            operand = match sign {
                Rule::minus => self.push(Node::Negate(operand.index), Class::Signed, span)?,
                Rule::not => {
                    let index = self.condition(operand)?;
                    self.push(Node::Not(index), Class::Condition, span)?
                }
                _ => Operand { span, ..operand },
            };
        }
        Ok(operand)
    }

    fn primary(&mut self, pair: Pair<'_, Rule>) -> Compiled {
        let (span, text) = (Span::of(&pair), pair.as_str());
        let (constant, class) = match pair.as_rule() {
            Rule::name => return self.push(Node::Property(text.into()), Class::Property, span),
            Rule::truth => (Constant::Boolean(true), Class::Boolean),
            Rule::falsehood => (Constant::Boolean(false), Class::Boolean),
            Rule::null => (Constant::Null, Class::Null),
            Rule::text => (Constant::Text(unquoted(text)), Class::Text),
            Rule::double => (self.double(text, span)?, Class::Number),
            _ => (self.whole(text, span)?, Class::Number),
        };
        self.push(Node::Constant(constant), class, span)
    }

    fn whole(&self, text: &str, span: Span) -> Result<Constant, FilterError> {
        let value = text.trim_end_matches(['l', 'L']).parse::<i64>();
        let value =
            value.map_err(|_| self.error(span, Reason::WholeNumberTooGreat { found: quote(text) }))?;
        Ok(i32::try_from(value).map_or(Constant::Long(value), Constant::Int))
    }

    fn double(&self, text: &str, span: Span) -> Result<Constant, FilterError> {
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && value > 0.0 => Ok(Constant::Double(value)),
            _ => Err(self.error(span, Reason::DoubleOutOfRange { found: quote(text) })),
        }
    }

    /// The operand in the place of a condition.
    fn condition(&mut self, operand: Operand) -> Result<Index, FilterError> {
        match operand.class {
            Class::Condition | Class::Boolean | Class::Null => Ok(operand.index),
            Class::Property => Ok(self
                .push(Node::Truth(operand.index), Class::Condition, operand.span)?
                .index),
            Class::Number | Class::Text | Class::Signed => Err(self.error(
                operand.span,
                Reason::NotACondition {
                    found: self.quoted(operand),
                },
            )),
        }
    }

    fn check_order(&self, operand: Operand) -> Result<(), FilterError> {
        match operand.class {
            Class::Number | Class::Property | Class::Signed => Ok(()),
            _ => Err(self.error(
                operand.span,
                Reason::NotOrdered {
                    found: self.quoted(operand),
                },
            )),
        }
    }

    fn check_equality(&self, left: Operand, right: Operand) -> Result<(), FilterError> {
        if let Some(null) = [left, right]
            .into_iter()
            .find(|operand| operand.class == Class::Null)
        {
            return Err(self.error(null.span, Reason::EqualToNull));
        }
        // Only this way round: the reference lets `5 = TRUE` through, and it is false.
        if left.class == Class::Boolean && matches!(right.class, Class::Number | Class::Text) {
            return Err(self.error(
                right.span,
                Reason::BooleanBesideOther {
                    found: self.quoted(right),
                },
            ));
        }
        Ok(())
    }

    /// The next part of a list; the grammar has no list that lacks one.
    fn next(
        &mut self,
        pairs: &mut Pairs<'_, Rule>,
        span: Span,
        compile: fn(&mut Self, Pair<'_, Rule>) -> Compiled,
    ) -> Compiled {
        match pairs.next() {
            Some(pair) => compile(self, pair),
            None => Err(self.error(span, Reason::Empty)),
        }
    }

    fn push(&mut self, node: Node, class: Class, span: Span) -> Compiled {
        let below = node
            .operands()
            .map(|operand| self.levels[operand])
            .max()
            .unwrap_or(0);
        if self.nodes.len() >= MAX_OPERATIONS {
            let limit = MAX_OPERATIONS;
            return Err(self.error(span, Reason::TooManyOperations { limit }));
        }
        if below >= MAX_OPERATOR_LEVELS {
            return Err(self.error(
                span,
                Reason::TooManyLevels {
                    limit: MAX_OPERATOR_LEVELS,
                },
            ));
        }
        self.nodes.push(node);
        self.levels.push(below + 1);
        Ok(Operand {
            index: self.nodes.len() - 1,
            class,
            span,
        })
    }

    fn quoted(&self, operand: Operand) -> String {
        quote(&self.text[operand.span.at..operand.span.end])
    }

    fn error(&self, span: Span, reason: Reason) -> FilterError {
        FilterError::new(self.text, span.at, reason)
    }
}

/// The text between the quotes; two quotes in it stand for one.
fn unquoted(text: &str) -> Box<str> {
    text.get(1..text.len() - 1)
        .unwrap_or_default()
        .replace("''", "'")
        .into()
}
