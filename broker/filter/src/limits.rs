//! The bounds of an expression. They are checked before anything is made of its text, so a hostile expression costs no more
//! than reading it once.

/// Bytes of an expression. A receive that waits, and carries its expression, has twice as much in all.
pub const MAX_EXPRESSION_BYTES: usize = 8 * 1024;
/// Parentheses that are open at the same time: the parser and the compiler go down one level for each, with 4 KiB of stack
/// (20 KiB without optimization).
pub const MAX_OPEN_PARENTHESES: usize = 48;
/// Levels of operators above one another, as in `NOT NOT NOT a`: an evaluation goes down one level for each. Terms of one AND
/// or OR, however many, are one level.
pub const MAX_OPERATOR_LEVELS: usize = 256;
/// Operations and operands of an expression: an evaluation looks at each once at most.
pub const MAX_OPERATIONS: usize = 1024;
/// Bytes of a property that is read as a number; a longer one is none.
pub const MAX_NUMBER_BYTES: usize = 512;
/// Texts in one IN list.
pub const MAX_IN_TERMS: usize = 1024;
/// Different or equal tags in one tag expression.
pub const MAX_TAGS: usize = 1024;

// Each pair of parentheses can hold a NOT, an AND and an OR: what the first bound lets through, the second must not refuse.
const _: () = assert!(3 * MAX_OPEN_PARENTHESES < MAX_OPERATOR_LEVELS);
// Lists are bounded by more than the length of the text: the shortest term takes three bytes, the shortest tag four.
const _: () = assert!(3 * MAX_IN_TERMS < MAX_EXPRESSION_BYTES && 4 * MAX_TAGS < MAX_EXPRESSION_BYTES);
