//! Durations and sizes as people write them: `150ms`, `3d`, `64MiB`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A duration, written as a whole number and one of ms, s, m, h, d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes, written as a whole number and nothing or one of B, KiB, MiB, GiB, TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const PERIODS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
];

fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not understood; write it like {example}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .ok_or_else(wrong)?;
    number
        .checked_mul(*factor)
        .ok_or_else(|| format!("`{text}` is too large"))
}

fn show(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |factor: u64| value >= factor && value.is_multiple_of(factor);
    match units.iter().find(|(_, factor)| fits(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(
            f,
            "0{}",
            units
                .iter()
                .rfind(|(unit, _)| !unit.is_empty())
                .expect("a smallest unit")
                .0
        ),
    }
}

impl Period {
    /// In milliseconds.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).expect("made from a u64 of milliseconds")
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Period, String> {
        parse(text, PERIODS, "150ms, 30s, 5m, 12h or 3d").map(|ms| Period(Duration::from_millis(ms)))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        parse(text, SIZES, "512KiB, 64MiB or 20GiB").map(Size)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.millis(), PERIODS, f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, SIZES, f)
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Period, Size, super::InitialCluster);
