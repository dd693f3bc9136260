//! The table of cases, and the recorded answers of the reference to random pairs.

use flotilla_filter::{Expression, Reason};

use crate::{cases, generate::Generator, pair::agree, record};

#[test]
fn every_case_of_the_table_has_its_answer() {
    for case in cases::read(include_str!("../cases.txt")) {
        let (pair, line) = (&case.pair, case.line);
        let answer = match Expression::compile(pair.kind, &pair.text) {
            Ok(_) => pair.answer(),
            Err(error) => {
                if let Some(position) = &case.position {
                    assert_eq!(error.position.to_string(), *position, "cases.txt:{line}: {error}");
                }
                let trailing = matches!(error.reason, Reason::TrailingText { .. });
                if trailing && case.answer == "trailing" {
                    "trailing"
                } else {
                    "refused"
                }
            }
        };
        assert_eq!(answer, case.answer, "cases.txt:{line}: {}", pair.line());
    }
}

#[test]
fn recorded_answers_of_the_reference_are_ours() {
    let mut generator = Generator::new(record::SEED);
    let mut compared = 0;
    for letter in include_str!("../recorded.txt").lines().flat_map(str::chars) {
        let pair = generator.pair();
        let reference = record::answer(letter);
        assert_eq!(record::letter(&reference), letter);
        let ours = pair.answer();
        assert!(
            agree(ours, &reference),
            "{reference}, ours {ours}: {}",
            pair.line()
        );
        compared += 1;
    }
    assert!(compared >= 5000, "{compared} pairs are too few");
}
