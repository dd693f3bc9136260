//! Tag expressions: `*`, or tags with `||` between them.

use crate::{
    error::{FilterError, Reason},
    limits::MAX_TAGS,
};

const SEPARATOR: &str = "||";

/// The tags that an expression names, sorted, each once; `None` if it takes all messages.
///
/// An expression of blanks only names no tag, and takes no message: so does the reference. One that consists of separators is
/// refused, `*` between blanks is a tag of that name.
pub(crate) fn parse(text: &str) -> Result<Option<Box<[Box<str>]>>, FilterError> {
    if text.is_empty() || text == "*" {
        return Ok(None);
    }
    let (mut tags, mut separators_only, mut at) = (Vec::new(), true, 0);
    for part in text.split(SEPARATOR) {
        separators_only &= part.is_empty();
        let tag = trim(part);
        if !tag.is_empty() {
            if tags.len() == MAX_TAGS {
                return Err(FilterError::new(
                    text,
                    at,
                    Reason::TooManyTags { limit: MAX_TAGS },
                ));
            }
            tags.push(Box::from(tag));
        }
        at += part.len() + SEPARATOR.len();
    }
    if separators_only {
        return Err(FilterError::new(text, 0, Reason::NoTags));
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(Some(tags.into()))
}

/// Without blanks and control characters at both ends, in the sense of the reference: everything up to the blank.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}
