//! Quoting of arguments in commands that are printed for pasting. Senders choose the names of streams,
//! so an argument can be any text.
//!
//! There are two layers. The outer one is quoting for a POSIX shell, which `xargs` reads the same way.
//! The inner one is [`escaped`]: a character that readers cannot see, or that a terminal would act on,
//! is written as `\u{202e}`, and every command decodes that with [`unescaped`].

use std::borrow::Cow;
use std::fmt::Display;

use super::acts;

/// An argument for a printed command: one word for a POSIX shell and for `xargs`, on one line, without
/// characters that act on a terminal. [`unescaped`] restores the argument.
pub fn quoted(argument: impl Display) -> String {
    let argument = argument.to_string();
    let argument = escaped(&argument);
    // zsh expands a leading equals sign, and a leading dash looks like a flag.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,-=".contains(c);
    let begins_plainly = !argument.starts_with(['=', '-']);
    if !argument.is_empty() && begins_plainly && argument.chars().all(is_plain) {
        return argument.into_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// Escapes characters that act on a terminal or are invisible as `\u{202e}`, and a backslash that would
/// begin such an escape.
pub fn escaped(name: &str) -> Cow<'_, str> {
    if !name.contains(acts) && !name.contains(r"\u{") {
        return name.into();
    }
    let mut shown = String::with_capacity(name.len() + 16);
    for (at, c) in name.char_indices() {
        match acts(c) || name[at..].starts_with(r"\u{") {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown.into()
}

/// Decodes a name that [`escaped`] wrote. Any other backslash stands for itself.
pub fn unescaped(typed: &str) -> Cow<'_, str> {
    if !typed.contains(r"\u{") {
        return typed.into();
    }
    let mut name = String::with_capacity(typed.len());
    let mut rest = typed;
    while let Some(at) = rest.find(r"\u{") {
        let (before, from) = rest.split_at(at);
        name += before;
        match escape(from) {
            Some((c, length)) => {
                name.push(c);
                rest = &from[length..];
            }
            None => {
                name.push('\\');
                rest = &from[1..];
            }
        }
    }
    (name + rest).into()
}

/// The character of the escape at the beginning of a text, and the length of the escape in bytes.
fn escape(text: &str) -> Option<(char, usize)> {
    let (digits, _) = text.strip_prefix(r"\u{")?.split_once('}')?;
    let is_hex = digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    Some((char::from_u32(number)?, r"\u{}".len() + digits.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const HOSTILE: [&str; 24] = [
        "",
        "billing/acme",
        "pay/y;touch PWNED;#",
        "pay/$(touch PWNED)",
        "pay/`touch PWNED`",
        "pay/it's",
        "pay/\"it\"",
        "pay/'\"'\"'",
        "pay/a b\tc\nd\re",
        "-rf",
        "--yes",
        "=ls",
        "~root",
        "pay/{a,b}*?[c]",
        "pay/!! !$",
        "pay/a\\b",
        "pay/a\\",
        "pay/\\u{202e}",
        "pay/\\\\u{202e}\\u{",
        "pay/\u{202e}gnimoc",
        "pay/\u{200b}\u{feff}\0\u{7f}\u{9b}",
        "pay/\u{a0}日本 \u{1f600}",
        "%1",
        "a=b&c|d<e>f^g",
    ];

    #[test]
    fn plain_names_stay_as_they_are_and_others_are_one_quoted_word() {
        for (name, printed) in [
            ("billing/acme", "billing/acme"),
            ("billing/a:b@c.de+1", "billing/a:b@c.de+1"),
            ("", "''"),
            ("pay/y;touch PWNED;#", "'pay/y;touch PWNED;#'"),
            ("pay/it's", r"'pay/it'\''s'"),
            ("pay/\u{202e}gnimoc", r"'pay/\u{202e}gnimoc'"),
            (r"pay/\u{202e}", r"'pay/\u{5c}u{202e}'"),
            (r"C:\new", r"'C:\new'"),
        ] {
            assert_eq!(quoted(name), printed);
        }
    }

    #[test]
    fn a_backslash_that_begins_no_escape_stands_for_itself() {
        for typed in [
            r"C:\new",
            r"\u",
            r"\u{",
            r"\u{}",
            r"\u{110000}",
            r"\u{d800}",
            r"\u{+41}",
        ] {
            assert_eq!(unescaped(typed), typed);
        }
        assert_eq!(unescaped(r"a\u{41}\u{005c}u{41}"), r"aA\u{41}");
    }

    /// The words that a program sees when this text is on a shell's command line, or goes through
    /// `xargs`.
    fn read_by(program: &[&str], input: &str) -> Vec<String> {
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{input}");
        let text = String::from_utf8(out.stdout).unwrap();
        text.strip_suffix('\0')
            .unwrap()
            .split('\0')
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_shell_and_xargs_read_every_name_whole() {
        let printed = HOSTILE.map(quoted);
        let line = format!("printf '%s\\0' {}\n", printed.join(" "));
        let by_shell = read_by(&["sh"], &line);
        let by_xargs = read_by(&["xargs", "printf", "%s\\0"], &(printed.join("\n") + "\n"));
        for words in [by_shell, by_xargs] {
            let names: Vec<_> = words.iter().map(|word| unescaped(word)).collect();
            assert_eq!(names, HOSTILE);
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back_and_shows_nothing_that_acts(name in any::<String>(), odd in r"[\\u{}0-9a-f'\u{202e} ]*") {
            for name in [name, odd] {
                let shown = escaped(&name);
                prop_assert!(!shown.contains(acts));
                prop_assert_eq!(unescaped(&shown), name.as_str());
            }
        }
    }
}
