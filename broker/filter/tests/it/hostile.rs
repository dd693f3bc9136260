//! Expressions at and over their bounds, and garbage: refused or answered, at once, whatever they are.

use flotilla_filter::{Expression, FilterError, Kind, Reason, limits};
use proptest::prelude::*;

use crate::pair::word;

fn sql(text: &str) -> Result<Expression, FilterError> {
    Expression::compile(Kind::Sql, text)
}

fn reason(text: &str) -> Reason {
    sql(text).expect_err("refused").reason
}

fn answer(text: &str) -> &'static str {
    word(
        sql(text)
            .expect("accepted")
            .evaluate(|name| (name == "a").then_some("1")),
    )
}

/// As often as the longest expression has room for.
fn filled(unit: &str) -> String {
    unit.repeat(limits::MAX_EXPRESSION_BYTES / unit.len())
}

#[test]
fn an_expression_over_its_length_is_refused_whatever_it_is() {
    for kind in [Kind::Tag, Kind::Sql] {
        for text in ["(", "NOT ", "a OR ", "'", "||", "-", " ", "\u{0}"] {
            let error = Expression::compile(kind, &text.repeat(100_000)).expect_err("too long");
            assert!(matches!(error.reason, Reason::TooLong { .. }), "{error}");
        }
    }
}

#[test]
fn parentheses_are_refused_from_the_first_that_is_too_deep() {
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(answer(&nested(limits::MAX_OPEN_PARENTHESES)), "true");
    assert!(matches!(
        reason(&nested(limits::MAX_OPEN_PARENTHESES + 1)),
        Reason::TooManyParentheses { .. }
    ));
    assert!(matches!(reason(&filled("(")), Reason::TooManyParentheses { .. }));
    assert!(matches!(
        reason(&filled("NOT (")),
        Reason::TooManyParentheses { .. }
    ));
}

#[test]
fn what_parentheses_allow_levels_allow() {
    let depth = limits::MAX_OPEN_PARENTHESES;
    let text = format!(
        "{}a{}",
        "NOT (FALSE OR TRUE AND ".repeat(depth),
        ")".repeat(depth)
    );
    assert_eq!(answer(&text), "false");
}

#[test]
fn operators_are_refused_from_the_first_that_is_too_deep() {
    // The property, its conversion and the NOTs.
    let most = limits::MAX_OPERATOR_LEVELS - 2;
    assert_eq!(answer(&format!("{}a", "NOT ".repeat(most))), "false");
    for text in [
        format!("{}a", "NOT ".repeat(most + 1)),
        format!("a{}", " IS NULL".repeat(most + 2)),
        format!("a = 1{}", " = TRUE".repeat(most + 1)),
        format!("a > {}1", "- ".repeat(most + 2)),
        format!("a CONTAINS 'x'{}", " CONTAINS 'x'".repeat(most + 1)),
        filled("NOT ") + "a",
    ] {
        let reason = sql(&text[..text.len().min(limits::MAX_EXPRESSION_BYTES)])
            .expect_err("refused")
            .reason;
        assert!(
            matches!(reason, Reason::TooManyLevels { .. } | Reason::Unexpected { .. }),
            "{reason}: {text}"
        );
    }
}

#[test]
fn terms_of_one_operator_are_one_level_however_many() {
    // A term is a property with its conversion, or a comparison of two.
    for (unit, operations, said) in [
        ("a = 2 OR ", 3, "true"),
        ("a=1AND ", 3, "true"),
        ("a OR ", 2, "true"),
        ("a AND ", 2, "false"),
    ] {
        let terms = (limits::MAX_OPERATIONS - 4) / operations;
        let text = unit.repeat(terms) + "a=1";
        assert_eq!(answer(&text), said, "{unit}");
        let more = unit.repeat(terms + 4) + "a=1";
        let reason = sql(&more).expect_err("refused").reason;
        assert!(
            matches!(reason, Reason::TooManyOperations { .. }),
            "{unit}: {reason}"
        );
    }
    assert_eq!(answer(&format!("a = {}1", "+".repeat(8000))), "true");
}

#[test]
fn a_number_of_any_length_costs_little() {
    let most = limits::MAX_NUMBER_BYTES;
    let of = |digits: usize| "1".repeat(digits);
    let expression = sql("a > 5.5").expect("well-formed");
    let matches = |value: &str| expression.matches(|_| Some(value));
    assert!(matches(&format!("{}e-{}", of(most - 5), most - 10)) && !matches(&of(most + 1)));
}

#[test]
fn ranges_inside_ranges_take_no_time() {
    let depth = limits::MAX_OPEN_PARENTHESES;
    let text = format!(
        "{}a BETWEEN 1 AND 2{}",
        "-(".repeat(depth),
        ") BETWEEN 1 AND 2".repeat(depth)
    );
    assert_eq!(answer(&text), "null");
}

#[test]
fn lists_are_refused_from_the_first_term_that_is_too_many() {
    let list = |terms: usize| format!("a IN ({}'1')", "'',".repeat(terms - 1));
    assert_eq!(answer(&list(limits::MAX_IN_TERMS)), "true");
    assert!(matches!(
        reason(&list(limits::MAX_IN_TERMS + 1)),
        Reason::TooManyTerms { .. }
    ));
}

#[test]
fn tags_are_refused_from_the_first_that_is_too_many() {
    let tags = |count: usize| Expression::compile(Kind::Tag, &"a||".repeat(count));
    assert_eq!(
        tags(limits::MAX_TAGS).expect("accepted").tags(),
        Some(&[Box::from("a")][..])
    );
    let error = tags(limits::MAX_TAGS + 1).expect_err("refused");
    assert!(matches!(error.reason, Reason::TooManyTags { .. }));
    assert_eq!(error.position.byte, 3 * limits::MAX_TAGS);
}

/// What means something to the scanner, the parser or the compiler when it comes again and again.
const UNITS: [&str; 48] = [
    "(",
    ")",
    "()",
    "NOT ",
    "-",
    "--",
    "- -",
    "--\n",
    "/*",
    "/**/",
    "*/",
    "'",
    "''",
    "'a' ",
    "a ",
    "1",
    "0",
    ".",
    "1.",
    "1e",
    "e",
    "=",
    "<>",
    "<",
    ",",
    "+",
    "\n",
    "\u{a0}",
    "🦀",
    "\"",
    "a=",
    "a=1=",
    "-a=",
    "TRUE=",
    "a AND ",
    "a=--a AND ",
    "a NOT ",
    "a IS ",
    " IS NOT NULL",
    "a IN (",
    "a IN ('',",
    "aNOTIN('')OR ",
    "a BETWEEN ",
    "a BETWEEN 1 AND ",
    "a CONTAINS ",
    "a CONTAINS '' ",
    "'--\n'=",
    "NOT(",
];

#[test]
fn repetitions_of_anything_end() {
    let all = UNITS.iter().map(|unit| filled(unit));
    let mixed = UNITS
        .iter()
        .flat_map(|first| UNITS.iter().map(|second| first.repeat(40) + &second.repeat(40)));
    for text in all.chain(mixed) {
        if let Ok(expression) = sql(&text) {
            expression.matches(|_| Some("1"));
        }
    }
}

#[test]
fn the_deepest_expressions_need_little_stack() {
    let depth = limits::MAX_OPEN_PARENTHESES;
    let nested = |open: &str, close: &str| format!("{}a{}", open.repeat(depth), close.repeat(depth));
    let texts = [
        nested("NOT (FALSE OR TRUE AND ", ")"),
        nested("-(", ") BETWEEN 1 AND 2"),
        nested("a BETWEEN -(", ") AND 1"),
        nested("TRUE = (", ")"),
        format!("{}a", "NOT ".repeat(limits::MAX_OPERATOR_LEVELS - 2)),
    ];
    let all = move || {
        for text in &texts {
            sql(text).expect("accepted").matches(|_| Some("1"));
        }
    };
    // A worker has 2 MiB, and most of it may be taken: this is a build without optimization, which takes five times as much.
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    thread.spawn(all).expect("a thread").join().expect("enough stack");
}

/// Words that make garbage look like an expression.
const FRAGMENTS: [&str; 28] = [
    "a", "NOT", "AND", "OR", "IN", "(", ")", "'x'", "'", ",", "=", "<>", "<", "IS", "NULL", "BETWEEN", "1",
    "1e400", "0x", "-", "--", "\n", "/*", "*/", "CONTAINS", "🦀", "TRUE", ".",
];

fn fragments() -> impl Strategy<Value = String> {
    let word = (proptest::sample::select(&FRAGMENTS[..]), any::<bool>());
    proptest::collection::vec(word, 0..60).prop_map(|words| {
        words
            .into_iter()
            .map(|(word, blank)| word.to_owned() + if blank { " " } else { "" })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_or_answered(text in "\\PC{0,200}", value in "\\PC{0,20}") {
        for kind in [Kind::Tag, Kind::Sql] {
            if let Ok(expression) = Expression::compile(kind, &text) {
                expression.matches(|_| Some(&value));
            }
        }
    }

    #[test]
    fn fragments_are_refused_or_answered(text in fragments(), value in "\\PC{0,20}") {
        match sql(&text) {
            Ok(expression) => { expression.matches(|_| Some(&value)); }
            Err(error) => prop_assert!(text.is_char_boundary(error.position.byte) && !error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_property_is_compared_or_an_error(value in any::<String>(), other in "[-+0-9.eExXpPdDfF ]{0,40}") {
        let expression = sql("a < b OR a = 5 OR a = 5.0 OR a <> 5000000000 OR a = TRUE OR a BETWEEN b AND 7").expect("accepted");
        for (a, b) in [(&value, &other), (&other, &value), (&other, &other)] {
            let _ = expression.evaluate(|name| Some(if name == "a" { a } else { b }));
        }
        for number in [&value, &other] {
            for text in ["a < 5", "a < 5.0", "a < 5000000000"] {
                let _ = sql(text).expect("accepted").evaluate(|_| Some(number));
            }
        }
    }
}
