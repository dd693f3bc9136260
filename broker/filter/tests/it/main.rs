//! Expressions against what the reference answers, against a naive evaluator, and against those who mean harm.

#[path = "../../examples/pairs/cases.rs"]
mod cases;
#[path = "../../examples/pairs/generate.rs"]
mod generate;
mod hostile;
mod naive;
#[path = "../../examples/pairs/pair.rs"]
mod pair;
#[path = "../../examples/pairs/pools.rs"]
mod pools;
mod random;
#[path = "../../examples/pairs/record.rs"]
mod record;
mod refusals;
mod table;
