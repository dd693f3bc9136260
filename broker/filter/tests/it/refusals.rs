//! What a refusal tells whoever wrote the expression.

use flotilla_filter::{Expression, Kind, TAG_PROPERTY};

fn refusal(kind: Kind, text: &str) -> String {
    Expression::compile(kind, text).expect_err("refused").to_string()
}

#[test]
fn a_refusal_says_where_and_what_is_expected() {
    let cases = [
        (
            "a > 1 garbage",
            "filter expression, line 1, column 7: the expression is complete, but `garbage` follows; expected AND, OR, another operator or the end",
        ),
        (
            "a = 1\n  AND",
            "filter expression, line 2, column 6: expected a property name, a number, a text in single quotes, TRUE, FALSE, NULL, NOT or `(`, found the end",
        ),
        (
            "a != 1",
            "filter expression, line 1, column 3: the expression is complete, but `!=` follows; expected AND, OR, another operator or the end (not equal is written <>)",
        ),
        (
            "a LIKE 'x%'",
            "filter expression, line 1, column 3: the expression is complete, but `LIKE` follows; expected AND, OR, another operator or the end (LIKE is not known: use CONTAINS, STARTSWITH or ENDSWITH)",
        ),
        (
            "a IN (5)",
            "filter expression, line 1, column 7: expected a text in single quotes, found `5)`",
        ),
        (
            "a = \"x\"",
            "filter expression, line 1, column 5: expected a property name, a number, a text in single quotes, TRUE, FALSE, NULL, NOT or `(`, found `\"x\"` (texts stand in single quotes, names in none)",
        ),
        (
            "a = NULL",
            "filter expression, line 1, column 5: nothing is equal to NULL: use IS NULL or IS NOT NULL",
        ),
        (
            "a > 'x'",
            "filter expression, line 1, column 5: `'x'` has no order: only numbers and properties can be compared by <, <=, >, >= and BETWEEN",
        ),
        (
            "a IS 5",
            "filter expression, line 1, column 6: expected NOT or NULL, found `5`",
        ),
    ];
    for (text, words) in cases {
        assert_eq!(refusal(Kind::Sql, text), words);
    }
}

#[test]
fn advice_is_given_where_something_else_is_often_meant() {
    let cases = [
        ("a == 1", "one ="),
        ("a = 1 && b = 1", "write AND"),
        ("a = 1 || b = 1", "write OR"),
        ("a = 1 + 1", "no arithmetic"),
        ("my-name = 1", "no arithmetic, and names have letters"),
        ("my.name = 1", "names have letters"),
        ("größe = 1", "letters a to z"),
        ("a = 007", "no leading zeros"),
        ("a = 0x10", "decimal"),
        ("a = 'x", "no closing quote"),
        ("a = 1 /* x", "comment has no end"),
        ("a\u{a0}= 1", "spaces and line ends"),
        ("a = 9223372036854775808", "greater than 9223372036854775807"),
        ("a = 0.0", "zero is written 0"),
        ("", "it is empty"),
    ];
    for (text, words) in cases {
        let refusal = refusal(Kind::Sql, text);
        assert!(refusal.contains(words), "{text}: {refusal}");
    }
    assert!(refusal(Kind::Tag, "||").contains("`*` takes all messages"));
}

#[test]
fn a_refusal_quotes_little() {
    let refusal = refusal(Kind::Sql, &format!("a = 1 {}", "x".repeat(5000)));
    assert!(refusal.chars().count() < 250, "{refusal}");
}

#[test]
fn positions_count_characters_and_bytes() {
    let error = Expression::compile(Kind::Sql, "/* 日本 */ a = 'ü'\nAND 🦀").expect_err("refused");
    assert_eq!(
        (error.position.byte, error.position.line, error.position.column),
        (26, 2, 5)
    );
}

#[test]
fn tags_are_known_without_a_look_at_messages() {
    let compile = |kind, text| Expression::compile(kind, text).expect("accepted");
    assert!(compile(Kind::Tag, "*").is_everything());
    assert!(compile(Kind::Tag, "").is_everything());
    assert!(Expression::EVERYTHING.matches(|_| None));
    assert_eq!(compile(Kind::Tag, "*").tags(), None);
    let tags = compile(Kind::Tag, " b || a||b");
    assert_eq!(tags.tags(), Some(&[Box::from("a"), Box::from("b")][..]));
    assert!(tags.matches(|name| (name == TAG_PROPERTY).then_some("a")));
    assert!(!tags.is_everything() && !tags.matches(|_| None));
    assert_eq!(compile(Kind::Sql, "TRUE").tags(), None);
}
