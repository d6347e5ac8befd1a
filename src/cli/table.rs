//! Tables without borders: upper-case header, two spaces, and no wider than the terminal.
//!
//! Promises: where no width is given, nothing is left out and nothing is cut. Where one is, columns
//! are left out in the order their table names, and only then a long last one is cut. What a table
//! never leaves out stays, whatever the width.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::text::printable_line;

/// Between two columns.
const GAP: u16 = 2;

/// Enough of a last column to read on; it is not cut any shorter.
const LAST_MIN: u16 = 20;

/// What a table shows.
pub struct Sheet<'a> {
    /// The columns; one whose title ends in a blank is aligned to the right.
    pub header: &'a [&'a str],
    /// Titles of columns that may be left out, the first of them first.
    pub drops: &'a [&'a str],
    /// As many cells as there are columns, in each.
    pub rows: Vec<Vec<String>>,
}

/// A table, a line a row, in `room` columns of a terminal if it must fit one.
pub fn lines(sheet: &Sheet<'_>, room: Option<u16>) -> Vec<String> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_truncation_indicator("..")
        .set_header(sheet.header.iter().map(|title| title.trim_end()));
    for row in &sheet.rows {
        let cells = row.iter().map(|cell| printable_line(cell).to_string());
        table.add_row(cells.collect::<Vec<_>>());
    }
    let widths = table.column_max_content_widths();
    let last = sheet.header.len().saturating_sub(1);
    for (place, (column, title)) in table.column_iter_mut().zip(sheet.header).enumerate() {
        column.set_padding((0, if place == last { 0 } else { GAP }));
        if title.ends_with(' ') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(room) = room {
        squeeze(&mut table, &fit(sheet, &widths, room));
    }
    let lines = table.lines();
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// What makes a table fit.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    /// The places of the columns that are left out.
    left_out: Vec<usize>,
    /// How wide the last column may be; none when it may be as wide as it is.
    last_max: Option<u16>,
}

fn fit(sheet: &Sheet<'_>, widths: &[u16], room: u16) -> Fit {
    let place = |title: &str| sheet.header.iter().position(|t| t.trim_end() == title);
    let last = widths.len().saturating_sub(1);
    // A last column that may be left out is short by nature and is never cut.
    let is_cut = !sheet.drops.iter().any(|title| place(title) == Some(last));
    let least = |at: usize| match is_cut && at == last {
        true => widths[at].min(LAST_MIN),
        false => widths[at],
    };
    let mut shown: Vec<usize> = (0..widths.len()).collect();
    let needed = |shown: &[usize]| {
        let gaps = u32::from(GAP) * shown.len().saturating_sub(1) as u32;
        gaps + shown.iter().map(|at| u32::from(least(*at))).sum::<u32>()
    };
    for title in sheet.drops {
        if needed(&shown) <= u32::from(room) {
            break;
        }
        shown.retain(|at| place(title) != Some(*at));
    }
    let left_out = (0..widths.len()).filter(|at| !shown.contains(at)).collect();
    let more = u32::from(room).saturating_sub(needed(&shown));
    let may_have = u32::from(least(last)) + more;
    let last_max = u16::try_from(may_have).ok();
    let last_max = last_max.filter(|max| is_cut && *max < widths[last]);
    Fit { left_out, last_max }
}

fn squeeze(table: &mut Table, fit: &Fit) {
    for at in &fit.left_out {
        if let Some(column) = table.column_mut(*at) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    let Some(max) = fit.last_max else {
        return;
    };
    if let Some(column) = table.column_iter_mut().last() {
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(max)));
    }
    for row in table.row_iter_mut() {
        row.max_height(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &[&str] = &["STREAM", "HANDLER", "HEAD ", "OLDEST ", "REASON"];
    const DROPS: &[&str] = &["HEAD", "HANDLER"];

    fn sheet(reason: &str) -> Sheet<'static> {
        let row = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
        Sheet {
            header: HEADER,
            drops: DROPS,
            rows: vec![
                row(["orders/acme", "reduce", "4,182", "18m07", reason]),
                row(["hello", "reduce", "1", "-", "-"]),
            ],
        }
    }

    const REASON: &str = "TypeError: cannot read property 'total' of undefined at orders.js:12";

    #[test]
    fn without_a_width_nothing_is_left_out_and_nothing_is_cut() {
        let lines = lines(&sheet(REASON), None);
        assert_eq!(lines[0], "STREAM       HANDLER   HEAD  OLDEST  REASON");
        let row = format!("orders/acme  reduce   4,182   18m07  {REASON}");
        assert_eq!(lines[1], row);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_long_last_column_is_cut_before_anything_is_left_out() {
        let lines = lines(&sheet(REASON), Some(60));
        assert_eq!(lines[0], "STREAM       HANDLER   HEAD  OLDEST  REASON");
        assert!(lines[1].starts_with("orders/acme  reduce   4,182   18m07  TypeError:"));
        assert!(
            lines[1].ends_with("..") && lines[1].len() <= 60,
            "{}",
            lines[1]
        );
        assert_eq!(lines.len(), 3, "a row is a line");
    }

    #[test]
    fn columns_go_in_their_order_and_the_rest_stays() {
        let header = |room| lines(&sheet(REASON), Some(room)).remove(0);
        assert_eq!(header(56), "STREAM       HANDLER  OLDEST  REASON");
        assert_eq!(header(42), "STREAM       OLDEST  REASON");
        assert_eq!(header(1), "STREAM       OLDEST  REASON");
        assert_eq!(
            lines(&sheet("-"), Some(43))[0],
            "STREAM       HANDLER   HEAD  OLDEST  REASON"
        );
    }

    proptest! {
        #[test]
        fn a_table_is_never_wider_than_its_room_allows(reason in "[ -~äöü日本]{0,90}", room in 41_u16..200) {
            for line in lines(&sheet(&reason), Some(room)) {
                let mut measure = Table::new();
                measure.load_style(presets::NOTHING).add_row([&line]);
                prop_assert!(measure.column_max_content_widths()[0] <= room, "{room}: {line}");
            }
        }
    }
}
