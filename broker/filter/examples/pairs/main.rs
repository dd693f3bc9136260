//! Pairs of expressions and properties, for the comparison with the reference: `scripts/acceptance/filter-diff.sh`.
//!
//! - `pairs generate SEED COUNT`: random pairs, one a line.
//! - `pairs cases TABLE`: the pairs of the table of cases.
//! - `pairs judge SEED COUNT ANSWERS`: compares the reference's answers, a line for each pair, with ours; prints counts and the
//!   first differences; ends with 1 if there are any.
//! - `pairs judge-cases TABLE ANSWERS`: the same for the table, which must agree with both.
//! - `pairs record ANSWERS`: a letter for each answer, as `tests/recorded.txt` holds them.
//!
//! The seed `recorded` stands for that of the recorded answers.

mod cases;
mod generate;
mod pair;
mod pools;
mod record;

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use self::{generate::Generator, pair::Pair};

/// Differences that are printed; all are counted.
const SHOWN: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["generate", seed, count] => print(generated(seed, count).map(|pair| pair.line())),
        ["cases", table] => print(cases::read(&text(table)).into_iter().map(|case| case.pair.line())),
        ["judge", seed, count, answers] => return judge(generated(seed, count), &text(answers)),
        ["judge-cases", table, answers] => return judge_cases(&text(table), &text(answers)),
        ["record", answers] => print(recorded(&text(answers)).into_iter()),
        _ => {
            eprintln!(
                "usage: pairs generate SEED COUNT | cases TABLE | judge SEED COUNT ANSWERS | judge-cases TABLE ANSWERS | record ANSWERS"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Lines of letters for lines of answers.
fn recorded(answers: &str) -> Vec<String> {
    let letters: Vec<char> = answers.lines().map(record::letter).collect();
    assert!(
        letters
            .iter()
            .map(|letter| record::answer(*letter))
            .eq(answers.lines()),
        "every answer has its letter"
    );
    letters.chunks(100).map(|line| line.iter().collect()).collect()
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

fn generated(seed: &str, count: &str) -> impl Iterator<Item = Pair> + use<> {
    let mut generator = Generator::new(if seed == "recorded" {
        record::SEED
    } else {
        number(seed)
    });
    (0..number(count)).map(move |_| generator.pair())
}

fn print(lines: impl Iterator<Item = String>) {
    let mut out = BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}").expect("standard output takes it");
    }
    out.flush().expect("standard output takes it");
}

fn judge(pairs: impl Iterator<Item = Pair>, answers: &str) -> ExitCode {
    let (mut counts, mut compared, mut different) = (BTreeMap::new(), 0, 0);
    let mut answers = answers.lines();
    for pair in pairs {
        let reference = answers.next().unwrap_or("nothing");
        let ours = pair.answer();
        compared += 1;
        *counts
            .entry(reference.split(' ').next().unwrap_or_default())
            .or_insert(0) += 1;
        if !pair::agree(ours, reference) {
            different += 1;
            if different <= SHOWN {
                println!(
                    "DIFFERENT: reference {reference}, ours {ours}\n    {}",
                    pair.line()
                );
            }
        }
    }
    println!("compared {compared} pairs; the reference says: {counts:?}");
    println!("(trailing: taken by the reference, which ignores what follows; refused by us, on purpose)");
    println!("differences: {different}");
    if different == 0 && compared > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn judge_cases(table: &str, answers: &str) -> ExitCode {
    let cases = cases::read(table);
    let mut different = 0;
    let answers: Vec<&str> = answers.lines().collect();
    for (index, case) in cases.iter().enumerate() {
        let reference = answers.get(index).copied().unwrap_or("no answer");
        let of_reference = reference.split(' ').next().unwrap_or_default();
        if of_reference != case.answer || !pair::agree(case.pair.answer(), reference) {
            different += 1;
            let (line, answer, at) = (
                case.line,
                &case.answer,
                case.position.as_deref().unwrap_or_default(),
            );
            println!(
                "DIFFERENT: line {line}: {answer} {at}, reference {reference}, ours {}",
                case.pair.answer()
            );
        }
    }
    println!("table of cases: {} answers, {different} differences", cases.len());
    if different == 0 && !cases.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
