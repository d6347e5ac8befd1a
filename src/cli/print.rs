//! Output and questions of commands.
//!
//! Promises: stdout carries the requested data, stderr everything else; one struct supplies table and
//! JSON; text from outside cannot control the terminal; one function asks all questions, and never
//! without a terminal.

mod layout;
mod progress;
mod question;
mod row;
mod style;

use std::fmt;
use std::io::{self, BufRead, IsTerminal as _, Write};

use serde::Serialize;
use tokio::sync::watch;

use super::exit::Trouble;
use super::table::{self, Sheet};
use crate::api;
use crate::text::{escaped, printable, printable_line, quoted};

use layout::{columns, harmless, width};

pub use layout::{aligned, fitted, folded};
pub use progress::Progress;
pub use question::Stake;
pub use row::{Columns, Row};
pub use style::{Agreed, Color, Output, Style};

/// Prints data and messages, and asks questions.
pub struct Printer {
    style: Style,
    data: Box<dyn Write>,
    talk: Box<dyn Write>,
    answers: Box<dyn BufRead>,
    /// True if a user can answer.
    asks: bool,
    /// True if a user sees the messages.
    watched: bool,
    data_seen: bool,
    /// Width of the terminal that shows data, if there is one.
    width: Option<u16>,
    color: bool,
    /// Message for Ctrl-C; `None` while it ends the program at once.
    stopped: watch::Sender<Option<Vec<(&'static str, String)>>>,
}

impl Printer {
    /// A printer on the program's own streams.
    pub fn new(style: Style) -> Self {
        let watched = io::stderr().is_terminal();
        let var = |name: &str| std::env::var(name).ok();
        Self {
            color: style.color.wanted(watched, var),
            style,
            data: Box::new(io::BufWriter::new(io::stdout())),
            talk: Box::new(io::stderr()),
            answers: Box::new(io::BufReader::new(io::stdin())),
            asks: io::stdin().is_terminal() && watched,
            watched,
            data_seen: io::stdout().is_terminal(),
            width: width(),
            stopped: watch::Sender::default(),
        }
    }

    /// From now on Ctrl-C prints this, and no question is asked any more.
    pub fn on_ctrl_c(&mut self, facts: Vec<(&'static str, String)>) {
        self.stopped.send_replace(Some(facts));
    }

    /// Waits for a Ctrl-C, once [`Printer::on_ctrl_c`] was called. Before that the system's default
    /// applies, so that a question can be aborted.
    pub fn ctrl_c(&self) -> impl Future<Output = ()> + use<> {
        let mut stopped = self.stopped.subscribe();
        async move {
            let ended = stopped.wait_for(Option::is_some).await.is_err();
            if ended || tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Prints what was done until Ctrl-C, what was not, and how to continue.
    pub fn interrupted(&mut self) -> io::Result<()> {
        self.data.flush()?;
        if self.watched {
            write!(self.talk, "\r\u{1b}[K")?;
        }
        let facts = self.stopped.borrow().clone().unwrap_or_default();
        self.facts(&facts)
    }

    /// Output format of data.
    pub fn output(&self) -> Output {
        self.style.output
    }

    /// True if the flags disable colour.
    pub fn is_colourless(&self) -> bool {
        self.style.color == Color::Never
    }

    /// Prints a list in the requested format.
    pub fn list<T: Row>(&mut self, list: &api::List<T>, columns: Columns) -> io::Result<()> {
        match self.style.output {
            Output::Table => {
                self.table(&list.items, columns)?;
                if let Some(next) = &list.next {
                    self.say(format_args!("there are more: --after {}", quoted(next)))?;
                }
            }
            Output::Json => self.json(list)?,
            Output::Jsonl => {
                for item in &list.items {
                    self.json_line(item)?;
                }
            }
            Output::Names => {
                for item in &list.items {
                    self.name(&item.name())?;
                }
            }
        }
        self.data.flush()
    }

    /// Prints one object: its facts, one per line, or its JSON, or its name.
    pub fn item<T: Serialize>(
        &mut self,
        item: &T,
        name: &str,
        facts: &[(&str, String)],
    ) -> io::Result<()> {
        match self.style.output {
            Output::Table => {
                for line in aligned(facts) {
                    self.line(&line)?;
                }
            }
            Output::Json => self.json(item)?,
            Output::Jsonl => self.json_line(item)?,
            Output::Names => self.name(name)?,
        }
        self.data.flush()
    }

    /// Prints an object if JSON is requested; true if it was. Its description is on stderr.
    pub fn object<T: Serialize>(&mut self, item: &T) -> io::Result<bool> {
        match self.style.output {
            Output::Json => self.json(item)?,
            Output::Jsonl => self.json_line(item)?,
            Output::Table | Output::Names => return Ok(false),
        }
        self.data.flush()?;
        Ok(true)
    }

    /// Clears the screen of a terminal that shows tables; elsewhere the next list follows.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.data_seen && self.style.output == Output::Table {
            // Cursor home and clear in one write, to avoid flicker.
            write!(self.data, "\u{1b}[H\u{1b}[J")?;
        }
        Ok(())
    }

    /// Prints one item of an endless list.
    pub fn live<T: Row>(&mut self, item: &T, widths: &[usize]) -> io::Result<()> {
        match self.style.output {
            Output::Table => {
                let cells = item.cells();
                let mut line = String::new();
                for (place, cell) in cells.iter().enumerate() {
                    let width = widths.get(place).copied().unwrap_or(0);
                    line += &format!("{:<width$}  ", printable_line(cell));
                }
                self.line(line.trim_end())?;
            }
            Output::Json | Output::Jsonl => self.json_line(item)?,
            Output::Names => self.name(&item.name())?,
        }
        self.data.flush()
    }

    /// Prints a name for other commands: one word for `xargs` and shells, or the name and a NUL byte.
    pub fn name(&mut self, name: &str) -> io::Result<()> {
        match self.style.null {
            true => write!(self.data, "{}\0", escaped(name)),
            false => writeln!(self.data, "{}", quoted(name)),
        }
    }

    /// Prints one line of data.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.data, "{}", printable(text))
    }

    /// Width of the terminal that shows data, if there is one.
    pub fn room(&self) -> Option<u16> {
        self.width
    }

    /// Flushes data before messages are printed.
    pub fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }

    /// Prints bytes unchanged; on a terminal, characters that would act on it are made visible.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.data_seen {
            let text = String::from_utf8_lossy(bytes);
            writeln!(self.data, "{}", printable(&text))?;
        } else {
            self.data.write_all(bytes)?;
        }
        self.data.flush()
    }

    fn json<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        writeln!(self.data, "{}", harmless(&text))
    }

    fn json_line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        writeln!(self.data, "{}", harmless(&text))
    }

    fn table<T: Row>(&mut self, items: &[T], columns: Columns) -> io::Result<()> {
        let cells = match columns.wide {
            true => Row::whole,
            false => Row::cells,
        };
        let mut rows: Vec<Vec<String>> = items.iter().map(cells).collect();
        let is_empty = |place: usize| rows.iter().all(|row| row[place] == "-");
        let is_shown =
            |place: usize| columns.wide || !T::RARE.contains(&T::HEADER[place]) || !is_empty(place);
        let shown: Vec<usize> = (0..T::HEADER.len())
            .filter(|place| is_shown(*place))
            .collect();
        for row in &mut rows {
            *row = shown
                .iter()
                .map(|place| std::mem::take(&mut row[*place]))
                .collect();
        }
        let header: Vec<_> = shown.iter().map(|place| T::HEADER[*place]).collect();
        let sheet = Sheet {
            header: &header,
            drops: T::DROPS,
            rows,
        };
        let room = self.width.filter(|_| !columns.wide);
        for line in table::lines(&sheet, room) {
            writeln!(self.data, "{line}")?;
        }
        self.data.flush()
    }

    /// Prints a message, unless quiet.
    pub fn say(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        if self.style.quiet {
            return Ok(());
        }
        writeln!(self.talk, "{}", printable(&text.to_string()))
    }

    /// Prints aligned facts, wrapped in their own column on a narrow terminal.
    pub fn facts(&mut self, facts: &[(&str, String)]) -> io::Result<()> {
        let room = self.watched.then(|| columns(io::stderr()));
        for line in aligned(&fitted(facts, room)) {
            self.say(format_args!("{line}"))?;
        }
        Ok(())
    }

    /// Prints a hint on what to look at, for a user at a terminal.
    pub fn foot(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        if self.watched && self.style.output == Output::Table {
            self.say(text)?;
        }
        Ok(())
    }

    /// Prints an error, for people or as JSON.
    pub fn trouble(&mut self, trouble: &Trouble) -> io::Result<()> {
        // Failing to flush data must not hide the error.
        let _ = self.data.flush();
        if matches!(self.style.output, Output::Json | Output::Jsonl) {
            return writeln!(self.talk, "{}", harmless(&trouble_json(trouble)));
        }
        let (red, plain) = match self.color {
            true => ("\u{1b}[31m", "\u{1b}[0m"),
            false => ("", ""),
        };
        let message = printable(&trouble.message);
        // A list command for the missing name is printed on the same line.
        if let [("all", command)] = &trouble.facts[..] {
            let command = printable(command);
            return writeln!(self.talk, "{red}error:{plain} {message}     all: {command}");
        }
        writeln!(self.talk, "{red}error:{plain} {message}")?;
        let facts: Vec<_> = (trouble.facts.iter())
            .map(|(label, text)| (*label, text.clone()))
            .collect();
        for line in aligned(&facts) {
            writeln!(self.talk, "  {}", printable(&line))?;
        }
        Ok(())
    }
}

fn trouble_json(trouble: &Trouble) -> String {
    let hint_of = |(label, text): &(&str, String)| match *label {
        "hint" => Some(text.clone()),
        "needs" => Some(format!("needs {text}")),
        _ => None,
    };
    let commands = |fact: &(&str, String)| hint_of(fact).is_none().then(|| fact.1.clone());
    let hint = trouble.facts.iter().find_map(hint_of);
    serde_json::json!({"error": {
        "code": trouble.code,
        "message": trouble.message,
        "hint": hint,
        "next": trouble.facts.iter().filter_map(commands).collect::<Vec<_>>(),
        "exit": trouble.exit as u8,
    }})
    .to_string()
}

#[cfg(test)]
mod tests;
