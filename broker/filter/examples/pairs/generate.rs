//! Random pairs, the same for a seed on every machine: well-formed expressions, expressions with a fault, and nonsense.

use std::collections::BTreeMap;

use flotilla_filter::Kind;

use super::{
    pair::Pair,
    pools::{BLANKS, NAMES, NUMBERS, ODDITIES, ORDERS, SEARCHES, TEXTS, VALUES},
};

/// A generator of pairs.
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next pair.
    pub(crate) fn pair(&mut self) -> Pair {
        if self.one_in(25) {
            return self.rounding();
        }
        let kind = if self.one_in(12) { Kind::Tag } else { Kind::Sql };
        let mut text = match kind {
            Kind::Tag => self.tags(),
            Kind::Sql if self.one_in(4) => self.any(3),
            Kind::Sql => self.condition(3),
        };
        if kind == Kind::Sql && self.one_in(5) {
            text = self.spoiled(&text);
        }
        let properties = self.properties();
        Pair {
            kind,
            text,
            properties,
        }
    }

    /// Two ways to write nearly the same double: one of them between two doubles, more or less in the middle.
    fn rounding(&mut self) -> Pair {
        let exponent = match self.below(4) {
            0 => self.below(3) as u64,
            1 => 2046 - self.below(3) as u64,
            _ => 1023 - 70 + self.below(140) as u64,
        };
        let mantissa = match self.below(3) {
            0 => (1 << 52) - 1 - self.below(3) as u64,
            1 => self.below(3) as u64,
            _ => self.next() >> 12,
        };
        let plain = f64::from_bits(exponent << 52 | mantissa);
        let tails = [
            "",
            "0",
            "4",
            "7fffffffffff",
            "8",
            "800",
            "80000000000000000001",
            "8000000000000000000000",
            "c",
            "f",
        ];
        let (tail, lead) = (self.pick(&tails), u64::from(exponent > 0));
        let power = exponent.max(1) as i64 - 1023;
        let hexadecimal = match self.below(3) {
            0 => format!(
                "0x{:x}{tail}p{}",
                lead << 52 | mantissa,
                power - 52 - 4 * tail.len() as i64
            ),
            1 => format!("0X.00{lead}{mantissa:013X}{tail}P{}", power + 12),
            _ => format!("0x{lead}.{mantissa:013x}{tail}p{power:+}d"),
        };
        let digits = format!("{plain:.25e}");
        let near = if self.one_in(4) { digits } else { hexadecimal };
        let text = self
            .pick(&[
                "a <= b AND a >= b",
                "a < b",
                "a > b",
                "a = b",
                "b BETWEEN a AND a",
            ])
            .to_owned();
        let properties = [("a".to_owned(), near), ("b".to_owned(), format!("{plain:e}"))];
        Pair {
            kind: Kind::Sql,
            text,
            properties: properties.into(),
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }

    fn properties(&mut self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        for name in NAMES {
            if !self.one_in(4) {
                properties.insert(name.to_owned(), self.property());
            }
        }
        properties
    }

    fn property(&mut self) -> String {
        match self.below(8) {
            0 | 1 => self.pick(&TEXTS).to_owned(),
            2 => self.pick(&NUMBERS).to_owned(),
            3 => self.digits(),
            _ => self.pick(&VALUES).to_owned(),
        }
    }

    /// A number with many digits: where rounding and bounds are.
    fn digits(&mut self) -> String {
        let mut text = String::from(if self.one_in(3) { "-" } else { "" });
        for _ in 0..=self.below(22) {
            text.push(char::from(b'0' + self.below(10) as u8));
            if self.one_in(12) {
                text.push('.');
            }
        }
        if self.one_in(3) {
            text.push_str(&format!("e{}", self.below(700) as i64 - 350));
        }
        text
    }

    fn tags(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.below(5) {
            text.push_str(match self.below(10) {
                0..=2 => "||",
                3 => " ",
                4 => "*",
                5 => "|",
                6 => "\u{a0}",
                _ => "",
            });
            if !self.one_in(4) {
                text.push_str(&self.property());
                text.push_str("||");
            }
        }
        text
    }

    /// A blank, or nothing where the neighbours may touch.
    fn blank(&mut self) -> &'static str {
        if self.one_in(14) { "" } else { self.pick(&BLANKS) }
    }

    fn join<const N: usize>(&mut self, parts: [&str; N]) -> String {
        let mut text = String::new();
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                text.push_str(self.blank());
            }
            text.push_str(part);
        }
        text
    }

    /// A keyword in some mixture of cases.
    fn word(&mut self, word: &str) -> String {
        match self.below(4) {
            0 => word.to_lowercase(),
            1 => word
                .chars()
                .map(|c| if self.one_in(2) { c.to_ascii_lowercase() } else { c })
                .collect(),
            _ => word.to_owned(),
        }
    }

    fn not(&mut self) -> String {
        if self.one_in(3) {
            self.word("NOT")
        } else {
            String::new()
        }
    }

    fn name(&mut self) -> String {
        match self.below(16) {
            0 => "missing".to_owned(),
            1 => format!("({})", self.pick(&NAMES)),
            2 => format!("+{}", self.pick(&NAMES)),
            _ => self.pick(&NAMES).to_owned(),
        }
    }

    fn quoted(&mut self) -> String {
        let text = if self.one_in(2) {
            self.pick(&TEXTS).to_owned()
        } else {
            self.property()
        };
        format!("'{}'", text.replace('\'', "''"))
    }

    fn number(&mut self) -> String {
        let number = match self.below(5) {
            0 => self.digits().trim_start_matches('-').to_owned(),
            1 => self.below(12).to_string(),
            _ => self.pick(&NUMBERS[..35]).to_owned(),
        };
        match self.below(8) {
            0 => format!("-{number}"),
            1 => format!("+ {number}"),
            2 => format!("- {number}"),
            _ => number,
        }
    }

    fn constant(&mut self) -> String {
        match self.below(8) {
            0..=2 => self.quoted(),
            3..=5 => self.number(),
            6 => self.word("TRUE"),
            _ => self.word("FALSE"),
        }
    }

    /// A condition that the types allow, most often.
    fn condition(&mut self, depth: usize) -> String {
        if depth > 0 && self.one_in(2) {
            let left = self.condition(depth - 1);
            return match self.below(6) {
                0 => format!("({left})"),
                1 => self.join(["NOT", &format!("({left})")]),
                2 => self.join(["(", &left, ")", "IS", "NULL"]),
                n => {
                    let right = self.condition(depth - 1);
                    let word = self.word(if n == 3 { "OR" } else { "AND" });
                    self.join([&left, &word, &right])
                }
            };
        }
        let name = self.name();
        match self.below(10) {
            0 => name,
            1 => self.range(&name),
            2 => self.member(&name),
            3 | 4 => self.search(&name),
            5 => {
                let not = self.not();
                self.join([&name, "IS", &not, "NULL"])
            }
            6 | 7 => self.order(&name),
            8 => {
                let word = self.pick(&["TRUE", "FALSE", "NULL", "NOT a"]);
                self.word(word)
            }
            _ => self.equality(&name),
        }
    }

    fn order(&mut self, left: &str) -> String {
        let order = self.pick(&ORDERS);
        let right = if self.one_in(4) {
            self.name()
        } else {
            self.number()
        };
        if self.one_in(4) {
            self.join([&right, order, left])
        } else {
            self.join([left, order, &right])
        }
    }

    fn equality(&mut self, left: &str) -> String {
        let operator = self.pick(&["=", "<>"]);
        let right = if self.one_in(5) {
            self.name()
        } else {
            self.constant()
        };
        if self.one_in(5) {
            self.join([&right, operator, left])
        } else {
            self.join([left, operator, &right])
        }
    }

    fn range(&mut self, left: &str) -> String {
        let not = self.not();
        let low = if self.one_in(5) {
            self.name()
        } else {
            self.number()
        };
        let high = if self.one_in(5) {
            self.name()
        } else {
            self.number()
        };
        let (between, and) = (self.word("BETWEEN"), self.word("AND"));
        self.join([left, &not, &between, &low, &and, &high])
    }

    fn member(&mut self, left: &str) -> String {
        let not = self.not();
        let mut list = self.quoted();
        for _ in 0..self.below(7) {
            let term = self.quoted();
            list = self.join([&list, ",", &term]);
        }
        self.join([left, &not, "IN", "(", &list, ")"])
    }

    fn search(&mut self, left: &str) -> String {
        let not = self.not();
        let operator = self.pick(&SEARCHES);
        let (operator, text) = (self.word(operator), self.quoted());
        self.join([left, &not, &operator, &text])
    }

    /// An expression that the grammar allows, whatever the types.
    fn any(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.below(4) {
                0 => self.name(),
                1 => self.word("NULL"),
                _ => self.constant(),
            };
        }
        let left = self.any(depth - 1);
        match self.below(12) {
            0 => format!("({left})"),
            1 => format!("NOT {left}"),
            2 => format!("- {left}"),
            3 => self.search(&left),
            4 => self.member(&left),
            5 => self.range(&left),
            6 => self.order(&left),
            7 => self.equality(&left),
            8 => self.join([&left, "IS", "NULL"]),
            n => {
                let right = self.any(depth - 1);
                let operator = match n {
                    9 => self.pick(&["=", "<>"]),
                    10 => self.pick(&ORDERS),
                    _ => self.pick(&["AND", "OR"]),
                };
                self.join([&left, operator, &right])
            }
        }
    }

    /// The text with a piece left out, repeated, moved, or an odd one put in.
    fn spoiled(&mut self, text: &str) -> String {
        let pieces: Vec<char> = text.chars().collect();
        let at = self.below(pieces.len() + 1);
        let end = pieces.len().min(at + 1 + self.below(6));
        let (before, piece, after) = (&pieces[..at], &pieces[at..end], &pieces[end..]);
        let string = |chars: &[char]| chars.iter().collect::<String>();
        let odd = if self.one_in(2) {
            self.pick(&ODDITIES).to_owned()
        } else {
            self.constant()
        };
        match self.below(6) {
            0 => string(before) + &string(after),
            1 => string(before) + &string(piece) + &string(piece) + &string(after),
            2 => string(before),
            3 => format!("{text} {odd}"),
            4 => format!("{text} -- {odd}"),
            _ => string(before) + &odd + &string(piece) + &string(after),
        }
    }
}
