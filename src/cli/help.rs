//! Help texts for any terminal width, manual pages with examples that can be pasted, and the usage of
//! one command.
//!
//! In the sources, a long help consists of prose in lines of any length, and of indented blocks:
//! examples and files. Prose is wrapped again for each terminal; blocks stay as they are.

use std::ffi::OsString;
use std::io;

use clap::Command;
use clap_mangen::Man;

/// Joins the lines of each paragraph of the long helps, so that clap wraps them for the terminal.
pub fn flowed(command: Command) -> Command {
    let long = command.get_long_about().map(ToString::to_string);
    let command = match long {
        Some(long) => command.long_about(paragraphs(&long).join("\n\n")),
        None => command,
    };
    command.mut_subcommands(flowed)
}

fn paragraphs(text: &str) -> Vec<String> {
    let join = |paragraph: &str| match is_block(paragraph) {
        true => paragraph.to_owned(),
        false => paragraph.lines().collect::<Vec<_>>().join(" "),
    };
    text.split("\n\n").map(join).collect()
}

/// True if a line of the paragraph is indented; the first one may be its title.
fn is_block(paragraph: &str) -> bool {
    paragraph.lines().any(|line| line.starts_with("  "))
}

/// The usage of the command being called. In its own errors clap shows given flags as if they were
/// required.
pub fn usage(mut tree: Command, args: &[OsString]) -> String {
    tree.build();
    let mut command = &tree;
    for word in args.iter().skip(1).filter_map(|word| word.to_str()) {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    command.clone().render_usage().to_string()
}

/// Replaces the usage in an error of clap.
pub fn with_usage(error: &str, usage: &str) -> String {
    let line = |line: &str| match line.starts_with("Usage: ") {
        true => usage.to_owned(),
        false => line.to_owned(),
    };
    error.lines().map(line).map(|line| line + "\n").collect()
}

/// The manual pages of a command and its subcommands, with their file names.
///
/// # Errors
/// None in practice, because the pages are written into memory.
pub fn pages(command: &Command) -> io::Result<Vec<(String, String)>> {
    let mut pages = vec![page(command)?];
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        pages.extend(self::pages(inner)?);
    }
    Ok(pages)
}

/// One manual page with its file name. No word is hyphenated, and examples keep their lines.
///
/// # Errors
/// None in practice, because the page is written into memory.
pub fn page(command: &Command) -> io::Result<(String, String)> {
    const DESCRIPTION: &str = ".SH DESCRIPTION\n";
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    man.render(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let long = command.get_long_about().or(command.get_about());
    let long = long.map(ToString::to_string).unwrap_or_default();
    let page = match text.split_once(DESCRIPTION) {
        Some((before, after)) => {
            let rest = after.find("\n.SH ").map_or("", |end| &after[end + 1..]);
            format!("{before}{DESCRIPTION}{}{rest}", description(&long))
        }
        None => text,
    };
    let page = page.replacen(".SH NAME\n", ".nh\n.ad l\n.SH NAME\n", 1);
    Ok((man.get_filename(), page))
}

fn description(long: &str) -> String {
    let mut text = String::new();
    for paragraph in paragraphs(long) {
        let mut lines = paragraph.lines();
        match is_block(&paragraph) {
            true => {
                // A block without a title continues the block before it.
                match paragraph.starts_with("  ") {
                    true => text += ".sp\n.nf\n",
                    false => {
                        let title = lines.next().unwrap_or_default();
                        let title = title.trim_end_matches(':').to_uppercase();
                        text += &format!(".SH {}\n.nf\n", roff(&title));
                    }
                }
                for line in lines {
                    text += &format!("{}\n", roff(line.strip_prefix("  ").unwrap_or(line)));
                }
                text += ".fi\n";
            }
            false => text += &format!(".PP\n{}\n", roff(&paragraph)),
        }
    }
    text
}

/// Escapes text for roff, so that hyphens, quotes and backslashes appear as typed.
fn roff(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 16);
    if text.starts_with(['.', '\'']) {
        shown.push_str("\\&");
    }
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\e"),
            '-' => shown.push_str("\\-"),
            '\'' => shown.push_str("\\(aq"),
            '`' => shown.push_str("\\(ga"),
            '^' => shown.push_str("\\(ha"),
            '~' => shown.push_str("\\(ti"),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LONG: &str = "Do it\n\nOne thought\nin two lines.\n\nExamples:\n  a 'b' --c\n  d\\e\n\nA file:\n  x = \"y\"\n\n  z";

    #[test]
    fn prose_is_one_line_a_paragraph_and_examples_stay() {
        assert_eq!(
            paragraphs(LONG)[..3],
            [
                "Do it",
                "One thought in two lines.",
                "Examples:\n  a 'b' --c\n  d\\e"
            ]
        );
    }

    #[test]
    fn a_page_has_its_examples_line_by_line_as_they_are_typed() {
        let command = Command::new("it").about("Do it").long_about(LONG);
        let (name, text) = page(&command).unwrap();
        assert_eq!(name, "it.1");
        let examples = ".SH EXAMPLES\n.nf\na \\(aqb\\(aq \\-\\-c\nd\\ee\n.fi\n";
        assert!(text.contains(examples), "{text}");
        assert!(
            text.contains(".SH A FILE\n.nf\nx = \"y\"\n.fi\n.sp\n.nf\nz\n.fi\n"),
            "{text}"
        );
        assert!(
            text.contains(".nh\n") && text.contains("One thought in two lines.\n"),
            "{text}"
        );
    }

    #[test]
    fn an_error_shows_what_a_command_needs_and_not_what_was_given() {
        let args = [
            "hooklane",
            "lanes",
            "list",
            "--namespace",
            "a",
            "--sort",
            "x",
        ];
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let usage = usage(super::super::tree(), &args);
        assert_eq!(usage, "Usage: hooklane lanes list [OPTIONS]");
        let error = "error: no\n\nUsage: hooklane lanes list --namespace <NAME>\n\nMore\n";
        let told = with_usage(error, &usage);
        assert_eq!(
            told,
            "error: no\n\nUsage: hooklane lanes list [OPTIONS]\n\nMore\n"
        );
    }
}
