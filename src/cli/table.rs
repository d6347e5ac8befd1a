//! Tables without borders: upper-case header, two spaces, no wider than the terminal.
//!
//! Promises: without a width nothing is omitted or cut. With one, columns are omitted in the order of
//! [`Sheet::drops`] until the others fit with long texts cut to [`TEXT_MIN`]; the remaining width is
//! then given to these texts, first column first. Numbers are never cut, and columns that may not be
//! omitted are always shown.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::text::printable_line;

/// Width between two columns.
const GAP: u16 = 2;

/// Width to which a text may be cut.
const TEXT_MIN: u16 = 20;

/// Content of a table.
pub struct Sheet<'a> {
    /// Titles of the columns; a trailing blank aligns a column to the right.
    pub header: &'a [&'a str],
    /// Titles of columns that may be omitted, in this order.
    pub drops: &'a [&'a str],
    /// The rows, each with one cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// The table as lines, within `room` terminal columns if given.
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
        let fit = fit(sheet, &widths, room);
        squeeze(&mut table, &widths, &fit);
    }
    let lines = table.lines();
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// Largest width of each column; `None` for a column that is omitted.
fn fit(sheet: &Sheet<'_>, widths: &[u16], room: u16) -> Vec<Option<u16>> {
    let may_go = |at: usize| sheet.drops.contains(&sheet.header[at].trim_end());
    // Numbers and columns that may be omitted are not cut.
    let is_text = |at: usize| !sheet.header[at].ends_with(' ') && !may_go(at);
    let least = |at: usize| match is_text(at) {
        true => widths[at].min(TEXT_MIN),
        false => widths[at],
    };
    let mut shown: Vec<usize> = (0..widths.len()).collect();
    let needed = |shown: &[usize]| {
        let widths = shown.iter().map(|at| least(*at));
        let sum = widths.fold(0_u16, |sum, width| {
            sum.saturating_add(width.saturating_add(GAP))
        });
        sum.saturating_sub(GAP)
    };
    for title in sheet.drops {
        if needed(&shown) <= room {
            break;
        }
        shown.retain(|at| sheet.header[*at].trim_end() != *title);
    }
    let mut more = room.saturating_sub(needed(&shown));
    let mut fit = vec![None; widths.len()];
    for at in shown {
        let added = more.min(widths[at] - least(at));
        more -= added;
        fit[at] = Some(least(at) + added);
    }
    fit
}

fn squeeze(table: &mut Table, widths: &[u16], fit: &[Option<u16>]) {
    for ((column, width), max) in table.column_iter_mut().zip(widths).zip(fit) {
        match max {
            None => column.set_constraint(ColumnConstraint::Hidden),
            // The constraint includes the gap behind the column.
            Some(max) if max < width => {
                let gap = column.padding_width();
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(max + gap)))
            }
            Some(_) => column,
        };
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
    fn a_long_name_is_cut_only_where_the_rest_would_not_fit() {
        let mut sheet = sheet(REASON);
        sheet.rows[1][0] = "orders/a-name-of-thirty-characters".to_owned();
        let narrow = lines(&sheet, Some(59));
        assert_eq!(narrow[0], "STREAM                HANDLER  OLDEST  REASON");
        assert!(
            narrow[2].starts_with("orders/a-name-of-t..  reduce        -  -"),
            "{}",
            narrow[2]
        );
        let enough = lines(&sheet, Some(90));
        assert!(
            enough[2].starts_with("orders/a-name-of-thirty-characters  "),
            "{}",
            enough[2]
        );
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
                let width = measure.column_max_content_widths()[0];
                prop_assert!(width <= room, "{room}: {line}");
            }
        }
    }
}
