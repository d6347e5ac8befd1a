//! JSON as it was sent: decides whether a body is JSON, and when two numbers are equal.
//!
//! The ordering rule, every reducer and `hooks test` all call [`text`], so they agree on which bodies
//! are JSON.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// A body that is not one JSON value, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON: {0}")]
pub struct NotJson(String);

/// Some senders put it before UTF-8 text; RFC 8259 §8.1 lets a reader ignore it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The body as JSON text, without byte-order mark and surrounding white space. Any depth of nesting,
/// any length of numbers and unpaired surrogates (`"\ud800"`) are accepted, because RFC 8259 allows
/// them.
///
/// # Errors
/// [`NotJson`] unless the whole body is one JSON value in UTF-8.
pub fn text(body: &[u8]) -> Result<&str, NotJson> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let text = std::str::from_utf8(body)
        .map_err(|error| NotJson(format!("byte {} is not UTF-8", error.valid_up_to() + 1)))?;
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    if text.is_empty() {
        return Err(NotJson("it is empty".to_owned()));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(text),
        Err(error) => Err(NotJson(error.to_string())),
    }
}

/// Longest number written without an exponent, in bytes.
const PLAIN_MAX: i64 = 200;

/// A JSON number in a canonical form: `1`, `1.0` and `1e0` all become `1`. Exact for any number of
/// digits. A number whose exponent exceeds 64 bits is returned as written.
pub fn number(written: &str) -> Cow<'_, str> {
    let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let digits = written.strip_prefix('-').unwrap_or(written);
    if is_plain(digits) && digits != "0" {
        return written.into();
    }
    normal(written).map_or(written.into(), Cow::Owned)
}

/// The canonical form; `None` when the exponent is too large.
fn normal(written: &str) -> Option<String> {
    let (sign, unsigned) = match written.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", written),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let dropped = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    // The value is `significant` × 10^`power`.
    let exponent: i64 = exponent.parse().ok()?;
    let power = exponent
        .checked_sub(i64::try_from(fraction.len()).ok()?)?
        .checked_add(i64::try_from(dropped).ok()?)?;
    Some(format!("{sign}{}", unsigned_text(significant, power)))
}

fn unsigned_text(digits: &str, power: i64) -> String {
    let len = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or(0));
    // Position of the decimal point, counted from the first digit.
    match len.saturating_add(power) {
        point if power >= 0 && point <= PLAIN_MAX => format!("{digits}{}", zeros(power)),
        point if power < 0 && point > 0 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
            format!("{whole}.{fraction}")
        }
        point if power < 0 && len - point <= PLAIN_MAX => format!("0.{}{digits}", zeros(-point)),
        _ => format!("{digits}e{power}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(body: &[u8]) -> String {
        text(body).unwrap_err().to_string()
    }

    #[test]
    fn a_body_is_json_or_it_is_said_why_not() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for (body, json) in [
            (&b" {\"a\":1}\r\n"[..], r#"{"a":1}"#),
            (b"\xef\xbb\xbf{}", "{}"),
            (br#""\ud800""#, r#""\ud800""#),
            (b"1e400", "1e400"),
            (deep.as_bytes(), &deep),
        ] {
            assert_eq!(text(body).unwrap(), json);
        }
        assert_eq!(why(b""), "the body is not JSON: it is empty");
        assert_eq!(why(b"\xef\xbb\xbf \n"), "the body is not JSON: it is empty");
        assert_eq!(
            why(b"\"caf\xe9\""),
            "the body is not JSON: byte 5 is not UTF-8"
        );
        assert_eq!(
            why(b"a=1"),
            "the body is not JSON: expected value at line 1 column 1"
        );
        assert!(text(b"{} {}").is_err());
        assert!(text(b"\xef\xbb\xbf\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn numbers_of_one_value_have_one_form() {
        for (written, form) in [
            ("1", "1"),
            ("1.0", "1"),
            ("1e0", "1"),
            ("10E-1", "1"),
            ("-0", "0"),
            ("0.0e7", "0"),
            ("0e99999999999999999999", "0"),
            ("1.50", "1.5"),
            ("15e-4", "0.0015"),
            ("-12.5e1", "-125"),
            ("1E2", "100"),
            ("9007199254740993", "9007199254740993"),
            ("9007199254740993.0", "9007199254740993"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("1e400", "1e400"),
            ("10.0e399", "1e400"),
            ("1e-400", "1e-400"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert_eq!(number(written), form, "{written}");
        }
    }

    proptest! {
        #[test]
        fn moving_the_point_and_adding_zeros_changes_no_number(
            sign in "-?", digits in "[1-9][0-9]{0,25}", shift in -30_i64..30, zeros in "0{0,4}",
        ) {
            let plain = format!("{sign}{digits}e{shift}");
            let padded = format!("{sign}{digits}.{zeros}e{shift}").replace(".e", "e");
            let scientific = format!("{sign}{}.{}{zeros}0E+{}", &digits[..1], &digits[1..], shift + digits.len() as i64 - 1)
                .replace("+-", "-");
            prop_assert_eq!(number(&plain), number(&padded));
            prop_assert_eq!(number(&plain), number(&scientific));
            let form = number(&plain).into_owned();
            prop_assert_eq!(number(&form), form.as_str(), "a form stays");
            let value = |text: &str| text.parse::<f64>().unwrap();
            prop_assert_eq!(value(&plain), value(&form));
        }
    }
}
