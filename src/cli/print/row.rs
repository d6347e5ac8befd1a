//! Rows and columns of tables.

use serde::Serialize;

/// A row of a table.
pub trait Row: Serialize {
    /// Titles of the columns; a trailing blank aligns a column to the right.
    const HEADER: &'static [&'static str];

    /// Titles of columns that a narrow terminal omits, in this order.
    const DROPS: &'static [&'static str] = &[];

    /// Titles of columns that are omitted when every row has `-` there, unless all columns are
    /// requested.
    const RARE: &'static [&'static str] = &[];

    /// The cells, one for each column.
    fn cells(&self) -> Vec<String>;

    /// The cells without abbreviation, for `--wide`.
    fn whole(&self) -> Vec<String> {
        self.cells()
    }

    /// The name that other commands accept.
    fn name(&self) -> String;
}

/// Columns of a table to show.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Columns {
    /// Every column and every id whole, also where the terminal is too narrow for them
    #[arg(long)]
    pub wide: bool,
}
