//! Tables: chooses columns for a width, and fits cells into their columns.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::text;

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Title in the head of the table.
    pub title: &'static str,
    /// Width in characters.
    pub width: usize,
    /// Width when there is little room; zero removes the column.
    pub least: usize,
    /// Order in which columns shrink, lowest first; zero never shrinks.
    pub rank: u8,
    /// True to align to the right.
    pub right: bool,
}

impl Column {
    /// A column of words that never shrinks.
    pub fn words(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            least: width,
            rank: 0,
            right: false,
        }
    }

    /// A column of numbers that never shrinks.
    pub fn numbers(title: &'static str, width: usize) -> Self {
        Self {
            right: true,
            ..Self::words(title, width)
        }
    }

    /// Makes the column disappear in this order.
    pub fn gone(self, rank: u8) -> Self {
        Self {
            rank,
            least: 0,
            ..self
        }
    }

    /// Makes the column narrower in this order.
    pub fn narrow(self, rank: u8, least: usize) -> Self {
        Self {
            rank,
            least,
            ..self
        }
    }
}

/// Columns fitted to a width.
pub struct Table {
    columns: Vec<(Column, usize)>,
    gap: usize,
}

impl Table {
    /// Fits `columns` with `gap` blanks in between into `room` characters, as far as possible.
    pub fn new(columns: Vec<Column>, gap: usize, room: usize) -> Self {
        let mut columns: Vec<_> = columns
            .into_iter()
            .map(|c| {
                let width = c.width;
                (c, width)
            })
            .collect();
        let mut order: Vec<u8> = columns
            .iter()
            .map(|(c, _)| c.rank)
            .filter(|r| *r > 0)
            .collect();
        order.sort_unstable();
        for rank in order {
            let taken = |columns: &[(Column, usize)]| -> usize {
                let shown = columns.iter().filter(|(_, width)| *width > 0);
                shown
                    .map(|(_, width)| width + gap)
                    .sum::<usize>()
                    .saturating_sub(gap)
            };
            if taken(&columns) <= room {
                break;
            }
            for (column, width) in columns.iter_mut().filter(|(c, _)| c.rank == rank) {
                *width = column.least;
            }
        }
        Self { columns, gap }
    }

    /// Width of a column; zero when it is not shown.
    pub fn width(&self, title: &str) -> usize {
        let found = self
            .columns
            .iter()
            .find(|(column, _)| column.title == title);
        found.map_or(0, |(_, width)| *width)
    }

    /// The titles.
    pub fn header(&self) -> String {
        self.row(
            &self
                .columns
                .iter()
                .map(|(column, _)| column.title.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    /// One row, from cells with the titles of their columns; cells of hidden columns are left out.
    pub fn named_row(&self, cells: &[(&'static str, String)]) -> String {
        let cell = |title: &str| {
            let found = cells.iter().find(|(name, _)| *name == title);
            found.map_or_else(String::new, |(_, cell)| cell.clone())
        };
        let cells: Vec<_> = self.columns.iter().map(|(c, _)| cell(c.title)).collect();
        self.row(&cells)
    }

    /// One row, from one cell for each column, shown or not.
    pub fn row(&self, cells: &[String]) -> String {
        let mut row = String::new();
        let shown = self
            .columns
            .iter()
            .zip(cells)
            .filter(|((_, width), _)| *width > 0);
        for (nth, ((column, width), cell)) in shown.enumerate() {
            if nth > 0 {
                row.extend(std::iter::repeat_n(' ', self.gap));
            }
            row += &fit(cell, *width, column.right);
        }
        row
    }
}

/// The text in exactly `width` characters; a longer one ends in `..`.
pub fn fit(text: &str, width: usize, right: bool) -> String {
    let text = cut(text, width);
    let blanks = " ".repeat(width.saturating_sub(text.width()));
    match right {
        true => blanks + &text,
        false => text + &blanks,
    }
}

/// The text in at most `width` characters; a longer one ends in `..`.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let dots = width.min(2);
    let mut short = String::new();
    let mut taken = 0;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken + dots > width {
            break;
        }
        short.push(c);
    }
    short + &"..".chars().take(dots).collect::<String>()
}

/// The beginning of the text that fits.
pub fn clip(text: &str, width: usize) -> String {
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken <= width
    };
    text.chars().take_while(fits).collect()
}

/// Wraps the text into lines of at most `width` characters, between words where possible.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            // A long word is broken, because commands and names must be readable in full.
            _ => lines.extend(chunked(word, width).iter().map(|piece| cut(piece, width))),
        }
    }
    lines
}

/// The text in at most `most` lines, followed by `tail`, which is always shown; a longer text ends in
/// `..`.
pub fn paragraph(text: &str, tail: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = wrapped(text, width);
    let is_whole = lines.len() <= most;
    lines.truncate(most);
    let has_room = lines.len() < most;
    let Some(last) = lines.last_mut() else {
        return lines;
    };
    if is_whole && last.width() + tail.width() <= width {
        last.push_str(tail);
    } else if is_whole && has_room {
        lines.push(cut(tail.trim_start(), width));
    } else {
        let room = width.saturating_sub(tail.width());
        let ended = cut(&format!("{last}..."), room.min(last.width() + 2));
        *last = cut(&(ended + tail), width);
    }
    lines
}

/// Splits the text into pieces of at most `width` characters.
pub fn chunked(text: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut taken = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if taken + wide > width && taken > 0 {
            pieces.push(String::new());
            taken = 0;
        }
        taken += wide;
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces
}

/// A whole number in `width` characters, with all digits if they fit.
pub fn number(number: u64, width: usize) -> String {
    let whole = text::count(number);
    match whole.len() <= width {
        true => whole,
        false => text::short(number),
    }
}

/// A rate in events per second.
pub fn rate(per_s: Option<f64>) -> String {
    match per_s {
        None => "-".to_owned(),
        Some(per_s) if per_s >= 10_000.0 => text::short(per_s as u64),
        Some(per_s) => format!("{per_s:.0}"),
    }
}

/// A duration in milliseconds, or a dash.
pub fn age(ms: Option<u64>) -> String {
    ms.map_or_else(
        || "-".to_owned(),
        |ms| text::duration(Duration::from_millis(ms)),
    )
}

/// A duration in fractional milliseconds, or a dash.
pub fn took(ms: Option<f64>) -> String {
    let long = ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    long.map_or_else(|| "-".to_owned(), text::duration)
}

/// A fraction as a percentage, or a dash.
pub fn share(of_one: Option<f64>) -> String {
    of_one.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_give_way_in_their_order_and_some_never() {
        let columns = || {
            vec![
                Column::words("A", 4),
                Column::numbers("B", 10).narrow(1, 7),
                Column::numbers("C", 5).gone(2),
            ]
        };
        let at = |room| {
            let table = Table::new(columns(), 1, room);
            (table.width("A"), table.width("B"), table.width("C"))
        };
        assert_eq!(at(21), (4, 10, 5));
        assert_eq!(at(20), (4, 7, 5));
        assert_eq!(at(17), (4, 7, 0));
        assert_eq!(at(1), (4, 7, 0));
        let table = Table::new(columns(), 1, 21);
        assert_eq!(table.header(), "A             B     C");
    }

    #[test]
    fn long_texts_are_cut_and_wrapped_by_their_width_on_screen() {
        assert_eq!(fit("billing/acme", 8, false), "billin..");
        assert_eq!(fit("日本日本", 5, false), "日.. ");
        assert_eq!(fit("ab", 4, true), "  ab");
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(paragraph("one two three", "", 8, 2), ["one two", "three"]);
        assert_eq!(paragraph("one two three", "", 8, 1), ["one tw.."]);
        assert_eq!(
            paragraph("one two three four", "", 9, 2),
            ["one two", "three.."]
        );
        let told = |text| paragraph(text, " (+1, !)", 13, 2);
        assert_eq!(told("one"), ["one (+1, !)"]);
        assert_eq!(told("one two three"), ["one two three", "(+1, !)"]);
        assert_eq!(
            told("one two three four"),
            ["one two three", "four (+1, !)"]
        );
        assert_eq!(
            told("one two three fourfive"),
            ["one two three", "fou.. (+1, !)"]
        );
        assert_eq!(cut("abc", 1), ".");
        assert_eq!(chunked("日本ab", 3), ["日", "本a", "b"]);
        assert_eq!(chunked("", 3), [""]);
    }

    proptest! {
        #[test]
        fn a_cell_is_as_wide_as_its_column(text in "\\PC*", width in 0..40_usize, right: bool) {
            prop_assert_eq!(fit(&text, width, right).width(), width);
            prop_assert!(wrapped(&text, width).iter().all(|line| line.width() <= width));
            let lines = paragraph(&text, " (+2 more)", width, 2);
            prop_assert!(lines.len() <= 2 && lines.iter().all(|line| line.width() <= width));
        }
    }
}
