//! A compiled expression: its operations in one list, each after those it is applied to.
//!
//! A list has no pointers to follow when it is dropped, and every operation knows how many levels are below it.

use std::cmp::Ordering;

use super::value::Constant;

/// A place in [`Program::nodes`].
pub(super) type Index = usize;

/// An expression, ready to be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    /// The last one is the whole expression.
    pub(super) nodes: Box<[Node]>,
}

impl Program {
    /// In memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let beside = self.nodes.iter().map(|node| match node {
            Node::Property(text) | Node::Search { text, .. } => text.len(),
            Node::All(terms) | Node::Any(terms) => size_of_val::<[Index]>(terms),
            Node::Member { terms, .. } => {
                let texts = terms.iter().map(|term| term.len() + size_of::<Box<str>>());
                texts.sum()
            }
            Node::Constant(constant) => constant.bytes(),
            _ => 0,
        });
        size_of_val::<[Node]>(&self.nodes) + beside.sum::<usize>()
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Constant(Constant),
    /// What the message says under this name.
    Property(Box<str>),
    /// A property in the place of a condition.
    Truth(Index),
    Negate(Index),
    Not(Index),
    /// Terms with AND between them.
    All(Box<[Index]>),
    /// Terms with OR between them.
    Any(Box<[Index]>),
    Equal(Index, Index),
    IsNull(Index),
    Order(Relation, Index, Index),
    /// The operand is one node, evaluated once: as two comparisons, nested ranges would take exponential time.
    Range {
        operand: Index,
        low: Index,
        high: Index,
        negated: bool,
    },
    /// The terms are sorted.
    Member {
        operand: Index,
        terms: Box<[Box<str>]>,
        negated: bool,
    },
    Search {
        operand: Index,
        place: Place,
        text: Box<str>,
        negated: bool,
    },
}

impl Node {
    /// The nodes that it is applied to.
    pub(super) fn operands(&self) -> impl Iterator<Item = Index> {
        let (few, many): ([Option<Index>; 3], &[Index]) = match self {
            Self::Constant(_) | Self::Property(_) => ([None; 3], &[]),
            Self::All(terms) | Self::Any(terms) => ([None; 3], terms),
            Self::Equal(left, right) | Self::Order(_, left, right) => {
                ([Some(*left), Some(*right), None], &[])
            }
            Self::Range {
                operand, low, high, ..
            } => ([Some(*operand), Some(*low), Some(*high)], &[]),
            Self::Truth(operand)
            | Self::Negate(operand)
            | Self::Not(operand)
            | Self::IsNull(operand)
            | Self::Member { operand, .. }
            | Self::Search { operand, .. } => ([Some(*operand), None, None], &[]),
        };
        few.into_iter().flatten().chain(many.iter().copied())
    }
}

/// How two numbers stand to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// Where a text is looked for in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Anywhere,
    Start,
    End,
}
