//! The reference's answers to the pairs of one seed, a letter each: they are compared where no Java is.

/// The seed of the recorded pairs.
pub(crate) const SEED: u64 = 20_261_130;

const LETTERS: [(&str, char); 5] = [
    ("true", 't'),
    ("false", 'f'),
    ("null", 'n'),
    ("error", 'e'),
    ("refused", 'r'),
];

/// The letter of an answer. What was taken though text follows has an upper-case letter.
pub(crate) fn letter(answer: &str) -> char {
    let word = answer.strip_prefix("trailing ").unwrap_or(answer);
    let found = LETTERS.iter().find(|(known, _)| *known == word);
    let (_, letter) = found.unwrap_or_else(|| panic!("`{answer}` is not an answer"));
    if word == answer {
        *letter
    } else {
        letter.to_ascii_uppercase()
    }
}

/// The answer that a letter stands for.
pub(crate) fn answer(letter: char) -> String {
    let known = LETTERS
        .iter()
        .find(|(_, known)| known.eq_ignore_ascii_case(&letter));
    let (word, _) = known.unwrap_or_else(|| panic!("`{letter}` stands for no answer"));
    if letter.is_ascii_uppercase() {
        format!("trailing {word}")
    } else {
        (*word).to_owned()
    }
}
