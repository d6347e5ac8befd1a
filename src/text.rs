//! Formats numbers and texts for people.
//!
//! Pure functions without terminal, clock or colours. Numbers are truncated, never rounded up, so `59s`
//! never reads `60s` and nothing looks older or larger than it is. Text from outside passes through
//! [`Printable`] before it is displayed.

mod json;
mod shell;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

pub use json::differences;
pub use shell::{escaped, quoted, unescaped};

/// Refuses an address whose user and password are ambiguous: part of the password might be taken for a
/// host and displayed. The error contains nothing of the address.
///
/// # Errors
/// The remedy.
pub fn check_userinfo(url: &str) -> Result<(), &'static str> {
    const WHY: &str = "it can be read in several ways; percent-encode user and password: \
        %40 for @, %2F for /, %23 for #, %3A for :, %3F for ?";
    let Some((_, rest)) = url.split_once("://") else {
        return Ok(());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let userinfo = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let is_clear = !userinfo.contains('@')
        && userinfo.matches(':').count() <= 1
        && !after.contains('#')
        && (authority.is_empty() || !after.contains('@'));
    if is_clear { Ok(()) } else { Err(WHY) }
}

/// An address with anything that may be a user or a password masked, even in a malformed address.
pub fn masked_url(url: &str) -> String {
    let begin = url.find("://").map_or(0, |at| at + "://".len());
    match url.rfind('@') {
        Some(end) if end >= begin => format!("{}***{}", &url[..begin], &url[end..]),
        _ => url.to_owned(),
    }
}

/// A whole number with thousands separators: `17,596`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things in words: `1 stream`, `17,596 streams`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    let things = if number == 1 { one } else { many };
    format!("{} {things}", count(number))
}

/// A number in at most five columns: `940`, `61.4k`, `614k`, `4.2M`.
pub fn short(number: u64) -> String {
    let units = [
        (1_000, "k"),
        (1_000_000, "M"),
        (1_000_000_000, "G"),
        (1_000_000_000_000, "T"),
    ];
    let beyond = [
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000_000_000, "E"),
    ];
    match units
        .iter()
        .chain(&beyond)
        .rfind(|(unit, _)| number >= *unit)
    {
        Some((unit, name)) => figures(number, *unit) + name,
        None => number.to_string(),
    }
}

/// A size in bytes: `940 B`, `2.1 KB`, `614 MB`; a KB is 1,000 bytes.
pub fn size(bytes: u64) -> String {
    let units = [
        (1_000, "KB"),
        (1_000_000, "MB"),
        (1_000_000_000, "GB"),
        (1_000_000_000_000, "TB"),
    ];
    match units.iter().rfind(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{} {name}", figures(bytes, *unit)),
        None => format!("{bytes} B"),
    }
}

/// `number` in `unit`s, with one decimal below a hundred, none above.
fn figures(number: u64, unit: u64) -> String {
    match (number / unit, number % unit / (unit / 10)) {
        (whole @ 0..100, tenth) => format!("{whole}.{tenth}"),
        (whole, _) => whole.to_string(),
    }
}

/// A duration in at most five columns: `22ms`, `1.1s`, `41s`, `9m02`, `3h12`, `12d04`, `211d`.
pub fn duration(long: Duration) -> String {
    let seconds = long.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0 if long.is_zero() || long.as_millis() > 0 => format!("{}ms", long.as_millis()),
        0 => "<1ms".to_owned(),
        1..10 => format!("{seconds}.{}s", long.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}", minutes % 60),
        _ if days < 100 => format!("{days}d{:02}", hours % 24),
        _ if days < 10_000 => format!("{days}d"),
        _ => match days / 365 {
            years @ 0..10_000 => format!("{years}y"),
            _ => "ages".to_owned(),
        },
    }
}

/// The text in at most `most` characters; a longer one keeps its beginning and its end, with `..` in
/// between.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= most {
        return text.into();
    }
    let kept = most.saturating_sub(2);
    let begin: String = text.chars().take(kept - kept / 2).collect();
    let end: String = text.chars().skip(length - kept / 2).collect();
    (begin + ".." + &end).into()
}

/// An age: `22ms ago`, `18m07 ago`.
pub fn ago(age: Duration) -> String {
    duration(age) + " ago"
}

/// The name that was probably meant: at most one typing error for each four letters, and at most three.
pub fn closest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    const SLIPS_MAX: usize = 3;
    let most = (wanted.chars().count() / 4).clamp(1, SLIPS_MAX);
    names
        .filter(|name| name.len().abs_diff(wanted.len()) <= 4 * most)
        .map(|name| (strsim::osa_distance(wanted, name), name))
        .filter(|(slips, _)| *slips <= most)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name.to_owned())
}

/// Text that is safe to print: characters that would control the terminal, reorder or hide text are
/// shown as escapes.
///
/// Only the functions below create it, so a screen that accepts nothing else cannot be controlled by a
/// body, a header or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable<'t>(Cow<'t, str>);

/// Makes text of several lines printable: line ends and tabs stay.
pub fn printable(text: &str) -> Printable<'_> {
    visible(text, |c| acts(c) && c != '\n' && c != '\t')
}

/// Makes text printable in one line: line ends and tabs become visible too.
pub fn printable_line(text: &str) -> Printable<'_> {
    visible(text, acts)
}

fn visible(text: &str, unsafe_to_show: impl Fn(char) -> bool) -> Printable<'_> {
    if !text.contains(&unsafe_to_show) {
        return Printable(text.into());
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !unsafe_to_show(c) => shown.push(c),
            '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
            c => shown.extend(c.escape_unicode()),
        }
    }
    Printable(shown.into())
}

/// True for characters that a terminal would act on or that readers cannot see: control characters (C0,
/// DEL, C1), marks of direction, characters without width, other line ends, and tags. Joiners are
/// included, so some emoji and scripts are shown in parts; combining marks are not. Characters that
/// change the width of their neighbour are included, because terminals disagree on such pairs and leave
/// parts of them behind.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{20e3}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f3fb}'..='\u{1f3ff}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

impl Printable<'_> {
    /// The printable text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that owns its text.
    pub fn into_owned(self) -> Printable<'static> {
        Printable(self.0.into_owned().into())
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_clear_or_refused_and_masked_either_way() {
        for clear in [
            "postgres://h/n",
            "postgres://u:p@h:1/n?sslmode=require",
            "postgres://u%40x:p%2F@[::1]:5/n",
            "postgres:///n?user=u@x",
            "redis://:p@h",
        ] {
            assert_eq!(check_userinfo(clear), Ok(()), "{clear}");
        }
        for unclear in [
            "redis://:pa/ss@h",
            "redis://:pa?ss@h",
            "redis://:pa#ss@h",
            "redis://:pa@ss@h",
            "redis://u:pa:ss@h",
            "redis://u:pa@ss/x@h",
            "redis://:pa#ss",
        ] {
            assert!(check_userinfo(unclear).is_err(), "{unclear}");
        }
        assert_eq!(masked_url("http://u:p/q@h:1/x"), "http://***@h:1/x");
        assert_eq!(masked_url("u:p@h"), "***@h");
        assert_eq!(masked_url("http://h/x"), "http://h/x");
    }

    #[test]
    fn whole_numbers_keep_every_digit() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (17_596, "17,596"),
            (4_182_771, "4,182,771"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn a_long_name_keeps_both_ends() {
        assert_eq!(shortened("billing/acme", 12), "billing/acme");
        assert_eq!(shortened("billing/acme-corporation", 12), "billi..ation");
        assert_eq!(shortened("billing/日本日本日本", 12), "billi..本日本日本");
        assert_eq!(shortened("abc", 1), "..");
    }

    #[test]
    fn one_thing_is_one_and_none_are_many() {
        for (number, text) in [
            (0, "0 tries"),
            (1, "1 try"),
            (2, "2 tries"),
            (4_000, "4,000 tries"),
        ] {
            assert_eq!(counted(number, "try", "tries"), text);
        }
    }

    #[test]
    fn short_numbers_keep_three_figures() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (17_596, "17.5k"),
            (61_400, "61.4k"),
            (99_999, "99.9k"),
            (100_000, "100k"),
            (999_999, "999k"),
            (4_200_000, "4.2M"),
            (1_000_000_000_000, "1.0T"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn sizes_are_decimal_and_named() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (2_149, "2.1 KB"),
            (1_048_576, "1.0 MB"),
            (614_000_000, "614 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_read_as_people_say_them() {
        const DAY: u64 = 86_400_000;
        for (millis, text) in [
            (0, "0ms"),
            (22, "22ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (1_199, "1.1s"),
            (9_999, "9.9s"),
            (10_000, "10s"),
            (41_900, "41s"),
            (59_999, "59s"),
            (60_000, "1m00"),
            (542_000, "9m02"),
            (3_599_999, "59m59"),
            (3_600_000, "1h00"),
            (11_520_000, "3h12"),
            (DAY - 1, "23h59"),
            (12 * DAY + 4 * 3_600_000, "12d04"),
            (100 * DAY - 1, "99d23"),
            (211 * DAY, "211d"),
            (10_000 * DAY - 1, "9999d"),
            (10_000 * DAY, "27y"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::from_micros(300)), "<1ms");
        assert_eq!(duration(Duration::MAX), "ages");
        assert_eq!(ago(Duration::from_secs(1_087)), "18m07 ago");
    }

    #[test]
    fn what_acts_reorders_or_hides_becomes_visible() {
        for (hostile, shown) in [
            ("plain äöü 日本 \u{1f600}", "plain äöü 日本 \u{1f600}"),
            ("a\nb\tc", "a\nb\tc"),
            ("\x1b]52;c;aGk=\x07", "\\u{1b}]52;c;aGk=\\u{7}"),
            ("over\rwritten", "over\\rwritten"),
            ("\x7f\u{9b}31m\0", "\\u{7f}\\u{9b}31m\\u{0}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("\u{2066}\u{61c}\u{200e}", "\\u{2066}\\u{61c}\\u{200e}"),
            (
                "ac\u{200b}me\u{feff}\u{ad}",
                "ac\\u{200b}me\\u{feff}\\u{ad}",
            ),
            ("a\u{2028}b\u{e0041}", "a\\u{2028}b\\u{e0041}"),
        ] {
            assert_eq!(printable(hostile).as_str(), shown);
        }
        assert_eq!(printable_line("a\n\tb").as_str(), "a\\n\\tb");
        assert_eq!(format!("{:<4}|", printable("ab")), "ab  |");
    }

    proptest! {
        #[test]
        fn durations_and_short_numbers_fit_five_columns(number: u64, seconds: u64, nanos in 0..1_000_000_000_u32) {
            for number in [number, number >> 20, number >> 40, number >> 55] {
                prop_assert!((1..=5).contains(&short(number).len()));
            }
            for seconds in [seconds, seconds >> 20, seconds >> 36, seconds >> 45, seconds >> 60] {
                let text = duration(Duration::new(seconds, nanos));
                prop_assert!((1..=5).contains(&text.len()) && text.is_ascii(), "{}", text);
            }
        }

        #[test]
        fn whole_numbers_read_back(number: u64) {
            prop_assert_eq!(count(number).replace(',', "").parse::<u64>().unwrap(), number);
        }

        #[test]
        fn nothing_that_acts_is_left_and_nothing_else_is_touched(text in any::<String>(), plain in "[ -~äöü日]*") {
            let shown = printable(&text);
            prop_assert!(!shown.as_str().contains(|c| acts(c) && c != '\n' && c != '\t'));
            let again = printable(shown.as_str());
            prop_assert_eq!(&again, &shown);
            prop_assert!(!printable_line(&text).as_str().contains(acts));
            prop_assert!(printable(&plain).as_str() == plain);
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let names = || ["billing", "orders"].into_iter();
        assert_eq!(closest("biling", names()), Some("billing".into()));
        for stranger in ["shipping", "b", "order-items", "bill", "o"] {
            assert_eq!(closest(stranger, names()), None, "{stranger}");
        }
        assert_eq!(closest("oders", names()), Some("orders".into()));
        assert_eq!(closest("b", ["a", "billing"].into_iter()), Some("a".into()));
    }
}
