//! SQL92 expressions, as RocketMQ 5 understands them.
//!
//! The text is scanned for its bounds (`scan.rs`), parsed (`sql.pest`), checked and compiled (`compile.rs`) into a list of
//! operations (`program.rs`), which is evaluated (`evaluate.rs`) with the reference's conversions (`value.rs`, `number.rs`).

mod compile;
mod evaluate;
mod number;
mod program;
mod scan;
mod value;
mod words;

/// What the grammar's macro makes of `sql.pest`.
mod grammar {
    #[derive(pest_derive::Parser)]
    #[grammar = "sql/sql.pest"]
    pub(super) struct Grammar;
}

use pest::Parser;

use self::grammar::{Grammar, Rule};
pub(crate) use self::program::Program;
use crate::error::{FilterError, Reason};

/// Compiles an expression, whose length has been checked.
pub(crate) fn compile(text: &str) -> Result<Program, FilterError> {
    let prepared = scan::prepare(text)?;
    if prepared.trim_matches([' ', '\t', '\n', '\r', '\x0C']).is_empty() {
        return Err(FilterError::new(text, text.len(), Reason::Empty));
    }
    let pairs = Grammar::parse(Rule::expression, &prepared).map_err(|error| words::refusal(text, &error))?;
    compile::compile(text, pairs)
}
