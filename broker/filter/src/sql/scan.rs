//! One pass over the text before it is parsed: comments become blanks, and open parentheses are counted.

use crate::{
    error::{FilterError, Reason},
    limits::MAX_OPEN_PARENTHESES,
};

/// The text with a blank for each byte of its comments, so that positions stay what they are. What follows an unfinished text
/// or comment stays as it is, and the parser refuses it. Takes time in the order of the length, whatever the text is.
pub(super) fn prepare(text: &str) -> Result<String, FilterError> {
    let bytes = text.as_bytes();
    // A line comment needs a line's end; `--` without one are two signs. Searched once, not at each `--`.
    let last_break = text.rfind(['\n', '\r']).unwrap_or(0);
    let (mut out, mut copied, mut at, mut open) = (String::with_capacity(text.len()), 0, 0, 0);
    while at < bytes.len() {
        let comment = match &bytes[at..] {
            [b'\'', ..] => {
                at = text[at + 1..]
                    .find('\'')
                    .map_or(bytes.len(), |length| at + length + 2);
                continue;
            }
            [b'-', b'-', ..] if at < last_break => text[at..].find(['\n', '\r']),
            [b'/', b'*', ..] => match text[at + 2..].find("*/") {
                Some(length) => Some(length + 4),
                None => break,
            },
            _ => None,
        };
        let Some(length) = comment else {
            open = match bytes[at] {
                b'(' => open + 1,
                b')' => open.max(1) - 1,
                _ => open,
            };
            if open > MAX_OPEN_PARENTHESES {
                return Err(FilterError::new(
                    text,
                    at,
                    Reason::TooManyParentheses {
                        limit: MAX_OPEN_PARENTHESES,
                    },
                ));
            }
            at += 1;
            continue;
        };
        out.push_str(&text[copied..at]);
        out.extend(std::iter::repeat_n(' ', length));
        at += length;
        copied = at;
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> String {
        prepare(text).expect("within the bounds")
    }

    #[test]
    fn comments_become_blanks_of_the_same_length() {
        assert_eq!(prepared("a -- ü\n= /* * ** */ 1"), "a      \n=            1");
        assert_eq!(prepared("/**/a/***/"), "    a     ");
    }

    #[test]
    fn a_comment_inside_a_text_is_text() {
        assert_eq!(prepared("'--\n' = '/*it''s*/'"), "'--\n' = '/*it''s*/'");
    }

    #[test]
    fn two_signs_before_the_last_line_end_are_a_comment_and_behind_it_they_are_not() {
        assert_eq!(prepared("a = --5"), "a = --5");
        assert_eq!(prepared("a = --5\n--6"), "a =    \n--6");
    }

    #[test]
    fn what_has_no_end_is_left_to_the_parser() {
        assert_eq!(prepared("a /*/ b -- \n"), "a /*/ b -- \n");
        assert_eq!(prepared("a 'b -- \n"), "a 'b -- \n");
    }

    #[test]
    fn parentheses_inside_texts_and_comments_are_not_counted() {
        let many = "(".repeat(MAX_OPEN_PARENTHESES + 1);
        assert!(prepare(&format!("'{many}' /* {many} */")).is_ok());
        assert!(prepare(&many[1..]).is_ok());
        let error = prepare(&format!("a\n{many}")).expect_err("one too many");
        assert_eq!(error.position.byte, MAX_OPEN_PARENTHESES + 2);
    }

    #[test]
    fn closed_parentheses_are_not_open() {
        assert!(prepare(&"()".repeat(MAX_OPEN_PARENTHESES + 1)).is_ok());
    }
}
