//! Numbers in the properties of a message: which texts the reference takes for one, and for which.
//!
//! That is what Java's `Integer`, `Long` and `Double` read: whole numbers take a sign and the decimal digits of any script,
//! but no blanks; doubles take blanks around them, `NaN`, `Infinity`, a type letter behind, and hexadecimal digits with a
//! binary exponent.

use std::cmp::Ordering;

use crate::{limits::MAX_NUMBER_BYTES, tags::trim};

/// The zeros of the scripts in the basic plane; their other digits follow them.
const ZEROS: [u32; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50,
    0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
];

/// A whole number of 64 bits.
pub(super) fn long(text: &str) -> Option<i64> {
    if text.len() > MAX_NUMBER_BYTES {
        return None;
    }
    let (negative, digits) = sign(text);
    if digits.is_empty() {
        return None;
    }
    // Towards the negative, which reaches one further.
    let mut value = 0_i64;
    for c in digits.chars() {
        value = value.checked_mul(10)?.checked_sub(digit(c)?)?;
    }
    if negative {
        Some(value)
    } else {
        value.checked_neg()
    }
}

/// A whole number of 32 bits.
pub(super) fn int(text: &str) -> Option<i32> {
    long(text).and_then(|value| i32::try_from(value).ok())
}

/// A double.
pub(super) fn double(text: &str) -> Option<f64> {
    if text.len() > MAX_NUMBER_BYTES {
        return None;
    }
    let (negative, digits) = sign(trim(text));
    let size = match digits {
        "NaN" => return Some(f64::NAN),
        "Infinity" => f64::INFINITY,
        _ => match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => hexadecimal(digits)?,
            None => decimal(digits)?,
        },
    };
    Some(if negative { -size } else { size })
}

/// The order of doubles in the reference: total, -0.0 below 0.0, and one NaN above all.
pub(super) fn order(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .filter(|order| order.is_ne())
        .unwrap_or_else(|| {
            let one_nan = |value: f64| {
                if value.is_nan() {
                    f64::NAN.copysign(1.0)
                } else {
                    value
                }
            };
            one_nan(left).total_cmp(&one_nan(right))
        })
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn digit(c: char) -> Option<i64> {
    if c.is_ascii() {
        return c.to_digit(10).map(i64::from);
    }
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= u32::from(c))].last()?;
    Some(u32::from(c) - zero)
        .filter(|digit| *digit < 10)
        .map(i64::from)
}

fn without_type_letter(text: &str) -> &str {
    text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text)
}

/// Decimal digits with a point, an exponent, both or none. Only the form is checked here: the standard library reads more
/// forms, and rounds right.
fn decimal(text: &str) -> Option<f64> {
    let text = without_type_letter(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    if let Some(exponent) = exponent {
        let exponent = sign(exponent).1;
        if exponent.is_empty() || !digits(exponent) {
            return None;
        }
    }
    text.parse().ok()
}

/// Hexadecimal digits with or without a point, and a binary exponent, rounded to the nearest double, to the even one between
/// two.
fn hexadecimal(text: &str) -> Option<f64> {
    let text = without_type_letter_of_exponent(text)?;
    let at = text.find(['p', 'P'])?;
    let (whole, fraction) = text[..at].split_once('.').unwrap_or((&text[..at], ""));
    if whole.len() + fraction.len() == 0 || (text[..at].ends_with('.') && whole.is_empty()) {
        return None;
    }
    let (negative, exponent) = sign(&text[at + 1..]);
    if exponent.is_empty() || !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Far beyond what any number of digits in a property could make up for.
    let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    let mut exponent = if negative { -exponent } else { exponent };
    let mut bits = 0_u64;
    for (index, c) in whole.chars().chain(fraction.chars()).enumerate() {
        let digit = u64::from(c.to_digit(16)?);
        let behind_point = index >= whole.len();
        if bits >> 60 == 0 {
            bits = bits << 4 | digit;
            exponent -= if behind_point { 4 } else { 0 };
        } else {
            // What does not fit only says whether the number lies exactly between two doubles.
            bits |= u64::from(digit != 0);
            exponent += if behind_point { 0 } else { 4 };
        }
    }
    Some(scaled(bits, exponent))
}

/// The exponent may carry a type letter; without an exponent the letter would be a digit.
fn without_type_letter_of_exponent(text: &str) -> Option<&str> {
    text.contains(['p', 'P']).then(|| without_type_letter(text))
}

/// `bits` × 2 to the power of `exponent`, rounded once.
fn scaled(bits: u64, exponent: i64) -> f64 {
    if bits == 0 {
        return 0.0;
    }
    let unused = bits.leading_zeros();
    let (bits, exponent) = (bits << unused, exponent - i64::from(unused));
    // The number is 1.xxx times 2 to the power of this.
    let power = exponent + 63;
    if power > 1023 {
        return f64::INFINITY;
    }
    // 53 bits are kept, fewer below the smallest normal number.
    let kept = (53 - (-1022 - power).max(0)).max(-1);
    if kept < 0 {
        return 0.0;
    }
    let dropped = (64 - kept) as u32;
    let (mantissa, rest, half) = match dropped {
        64 => (0, u128::from(bits), 1_u128 << 63),
        _ => (
            bits >> dropped,
            u128::from(bits & ((1 << dropped) - 1)),
            1_u128 << (dropped - 1),
        ),
    };
    let up = rest > half || (rest == half && mantissa & 1 == 1);
    let mantissa = mantissa + u64::from(up);
    // A carry runs into the exponent, which is what it should do, up to infinity.
    let biased = if power < -1022 { 0 } else { (power + 1022) as u64 };
    f64::from_bits((biased << 52) + mantissa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_take_a_sign_and_digits_of_any_script_but_no_blanks() {
        for (text, value) in [
            ("0", 0),
            ("007", 7),
            ("+5", 5),
            ("-5", -5),
            ("٣٤", 34),
            ("1９", 19),
        ] {
            assert_eq!(long(text), Some(value), "{text}");
        }
        for text in [
            "", "+", "-", "+-5", " 5", "5 ", "5.0", "5L", "0x5", "1_000", "\u{0}", "５a", "𝟓",
        ] {
            assert_eq!(long(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_end_where_their_size_ends() {
        assert_eq!(long("9223372036854775807"), Some(i64::MAX));
        assert_eq!(long("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(long("9223372036854775808"), None);
        assert_eq!(int("2147483647"), Some(i32::MAX));
        assert_eq!(int("2147483648"), None);
        assert_eq!(int("-2147483648"), Some(i32::MIN));
    }

    #[test]
    fn doubles_take_blanks_type_letters_and_names() {
        let cases = [
            ("5", 5.0),
            (" 5.\t", 5.0),
            (".5", 0.5),
            ("-5e-1", -0.5),
            ("1f", 1.0),
            ("1D", 1.0),
            ("1e400", f64::INFINITY),
        ];
        for (text, value) in cases {
            assert_eq!(double(text), Some(value), "{text}");
        }
        assert_eq!(double("-Infinity"), Some(f64::NEG_INFINITY));
        assert!(double("+NaN").is_some_and(f64::is_nan));
        for text in [
            "", " ", ".", "e5", "1e", "1e+", "1L", "1ff", "inf", "nan", "infinity", "- 5", "1_0", "٣", "5 5",
            "0x5", "5\u{a0}",
        ] {
            assert_eq!(double(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_doubles_are_rounded_once() {
        let cases = [
            ("0x1p0", 1.0),
            ("0X.8P1d", 1.0),
            ("-0xf.fp4", -255.0),
            ("0x1.fffffffffffff7p0", 1.9999999999999998),
            ("0x1.fffffffffffff8p0", 2.0),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000000000000001p0", 1.0000000000000002),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x1p-1076", 0.0),
            ("0x0.fffffffffffff8p-1022", 2.2250738585072014e-308),
            ("0x1.fffffffffffff8p1023", f64::INFINITY),
            ("0x1p99999999999999999999", f64::INFINITY),
            ("0x1p-99999999999999999999", 0.0),
            ("0x0p99999999999999999999", 0.0),
        ];
        for (text, value) in cases {
            assert_eq!(double(text), Some(value), "{text}");
        }
        for text in [
            "0x",
            "0xp1",
            "0x.p1",
            "0x1",
            "0x1p",
            "0x1p+",
            "0x1g1p1",
            "0x1.2.3p1",
            "0x-1p1",
        ] {
            assert_eq!(double(text), None, "{text}");
        }
    }

    #[test]
    fn doubles_have_a_total_order() {
        assert_eq!(order(-0.0, 0.0), Ordering::Less);
        assert_eq!(order(f64::NAN, f64::INFINITY), Ordering::Greater);
        assert_eq!(order(-f64::NAN, f64::NAN), Ordering::Equal);
        assert_eq!(order(f64::NEG_INFINITY, -f64::NAN), Ordering::Less);
        assert_eq!(order(1.5, 1.5), Ordering::Equal);
    }
}
