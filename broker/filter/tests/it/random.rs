//! Random conditions against the naive evaluator.

use std::collections::BTreeMap;

use flotilla_filter::{Expression, Kind};
use proptest::{prelude::*, sample::select};

use crate::naive::{Condition, Literal};

const NAMES: [&str; 4] = ["a", "b", "TAGS", "$x_1"];
const TEXTS: [&str; 7] = ["", "red", "e", "it's", "true", "5", "日本"];
const VALUES: [&str; 20] = [
    "",
    "red",
    "it's",
    "true",
    "TRUE",
    "日本語",
    "5",
    "-5",
    "+5",
    "005",
    "5.0",
    " 5",
    "5.",
    ".5",
    "-0.5",
    "x5",
    "3000000000",
    "9223372036854775807",
    "-9223372036854775808",
    "99",
];

fn name() -> impl Strategy<Value = &'static str> {
    select(&NAMES[..])
}

fn text() -> impl Strategy<Value = &'static str> {
    select(&TEXTS[..])
}

fn number() -> impl Strategy<Value = Literal> {
    prop_oneof![
        (-7..8_i64).prop_map(Literal::Whole),
        select(vec![
            i64::from(i32::MAX),
            i64::from(i32::MAX) + 1,
            3_000_000_000,
            i64::MAX,
            -i64::MAX
        ])
        .prop_map(Literal::Whole),
        // Zero is not written with a point.
        (-700..800_i64).prop_filter_map("not zero", |value| (value != 0)
            .then_some(Literal::Decimal(value))),
    ]
}

fn leaf() -> impl Strategy<Value = Condition> {
    let literal = || prop_oneof![text().prop_map(Literal::Text), number()];
    prop_oneof![
        select(vec![Condition::True, Condition::False, Condition::Null]),
        name().prop_map(Condition::Bare),
        (name(), any::<bool>()).prop_map(|(name, negated)| Condition::Missing(name, negated)),
        (name(), literal(), any::<bool>())
            .prop_map(|(name, literal, negated)| Condition::Equals(name, literal, negated)),
        (name(), any::<bool>()).prop_map(|(name, value)| Condition::Is(name, value)),
        (name(), select(vec!["<", "<=", ">", ">="]), number())
            .prop_map(|(name, order, number)| { Condition::Compares(name, order, number) }),
        (name(), -7..2_i64, 2..8_i64, any::<bool>()).prop_map(|(name, low, high, negated)| {
            Condition::Between(name, Literal::Whole(low), Literal::Whole(high), negated)
        }),
        (name(), proptest::collection::vec(text(), 1..7), any::<bool>())
            .prop_map(|(name, texts, negated)| Condition::In(name, texts, negated)),
        (name(), text(), any::<bool>())
            .prop_map(|(name, text, negated)| Condition::Contains(name, text, negated)),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    leaf().prop_recursive(5, 40, 2, |inner| {
        let inner = inner.prop_map(Box::new).boxed();
        prop_oneof![
            inner.clone().prop_map(Condition::Not),
            (inner.clone(), any::<bool>()).prop_map(|(inner, negated)| Condition::IsNull(inner, negated)),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| Condition::And(left, right)),
            (inner.clone(), inner).prop_map(|(left, right)| Condition::Or(left, right)),
        ]
    })
}

fn properties() -> impl Strategy<Value = BTreeMap<&'static str, String>> {
    proptest::collection::btree_map(
        name(),
        select(&VALUES[..]).prop_map(str::to_owned),
        0..=NAMES.len(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_conditions_say_what_a_naive_evaluator_says(condition in condition(), properties in properties()) {
        let text = condition.text();
        let expression = Expression::compile(Kind::Sql, &text);
        prop_assert!(expression.is_ok(), "{text}: {expression:?}");
        if let Ok(expression) = expression {
            let said = expression.evaluate(|name| properties.get(name).map(String::as_str)).map_err(drop);
            prop_assert_eq!(said, condition.said(&properties), "{}", text);
            prop_assert_eq!(expression.matches(|name| properties.get(name).map(String::as_str)), said == Ok(Some(true)));
        }
    }
}
