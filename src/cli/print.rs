//! Output and questions of commands.
//!
//! Promises: stdout carries the requested data, stderr everything else; one struct supplies table and
//! JSON; text from outside cannot control the terminal; one function asks all questions, and never
//! without a terminal.

use std::fmt;
use std::io::{self, BufRead, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use unicode_width::UnicodeWidthStr as _;

use super::exit::{Exit, Trouble};
use super::table::{self, Sheet};
use crate::api;
use crate::domain::name::StreamName;
use crate::text::{self, escaped, printable, printable_line, quoted, unescaped};

/// Output format of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
    /// One JSON object a line
    Jsonl,
    /// One id a line, for xargs
    Names,
}

/// Use of colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal that has it, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// True if stderr gets colour.
    fn wanted(self, terminal: bool, var: impl Fn(&str) -> Option<String>) -> bool {
        let set = |name| var(name).is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR") => false,
            Self::Auto if set("CLICOLOR_FORCE") => var("CLICOLOR_FORCE").as_deref() != Some("0"),
            Self::Auto => terminal && var("TERM").is_some_and(|term| term != "dumb"),
        }
    }
}

/// Flags that answer questions in advance.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// `--yes`
    pub yes: bool,
    /// `--confirm NAME`
    pub name: Option<String>,
    /// `--no-input`
    pub never_ask: bool,
}

/// Output settings from the flags.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Output format of data.
    pub output: Output,
    /// True if names end with a NUL byte.
    pub null: bool,
    /// True if only errors and data are printed.
    pub quiet: bool,
    /// Use of colour.
    pub color: Color,
    /// Questions that are already answered.
    pub agreed: Agreed,
}

/// Severity of an action, which determines its question. Mild actions are done without one and print
/// how to undo them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stake {
    /// A yes is enough.
    Moderate,
    /// The user must type this text.
    Severe(String),
}

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

/// A progress bar, see [`Printer::progress`].
pub struct Progress {
    name: &'static str,
    /// Effect of Ctrl-C, printed before the first bar.
    ctrl_c: String,
    began: Instant,
    /// Time of the last progress, and the amount done then.
    moved: (Instant, u64),
    said: Option<(Instant, u64)>,
    is_still: bool,
    told: Presentation,
    /// Number of new events that do not belong to the work, if known.
    pub later: Option<u64>,
}

/// Presentation of the progress.
enum Presentation {
    /// As a percentage, with rate and remainder.
    Share,
    /// As a count of things with this name, with the present obstacle.
    Things(&'static str),
    /// As a percentage on a terminal; elsewhere as lines with this beginning and the remainder.
    Lines(String),
}

/// One report of a [`Progress`].
#[derive(Serialize)]
struct Step {
    progress: &'static str,
    done: u64,
    of: u64,
    per_s: f64,
    left_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    later: Option<u64>,
    not_moving: Option<String>,
}

/// Duration below which no bar is shown.
const NO_BAR: Duration = Duration::from_secs(1);

/// Interval between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Time without progress after which the bar says that nothing moves.
const STILL: Duration = Duration::from_secs(2);

impl Progress {
    /// A progress that begins now.
    pub fn new(name: &'static str, ctrl_c: impl Into<String>) -> Self {
        let now = Instant::now();
        Self {
            name,
            ctrl_c: ctrl_c.into(),
            began: now,
            moved: (now, 0),
            said: None,
            is_still: false,
            told: Presentation::Share,
            later: None,
        }
    }

    /// Counts things that are too few for a percentage, such as `lanes sealed`.
    #[must_use]
    pub fn of_things(mut self, name: &'static str) -> Self {
        self.told = Presentation::Things(name);
        self
    }

    /// Without a terminal, prints lines with this beginning.
    #[must_use]
    pub fn in_lines(mut self, begin: String) -> Self {
        self.told = Presentation::Lines(begin);
        self
    }

    /// The report to print now, if one is due.
    fn step(
        &mut self,
        now: Instant,
        (done, of): (u64, u64),
        still: Option<&str>,
        watched: bool,
    ) -> Option<Step> {
        if done != self.moved.1 {
            self.moved = (now, done);
        }
        let was_still = std::mem::replace(&mut self.is_still, now - self.moved.0 > STILL);
        let elapsed = now - self.began;
        let tenth = (of / 10).max(1);
        let is_due = match self.said {
            None => elapsed >= NO_BAR,
            Some(_) if watched => true,
            Some(_) if self.is_still && !was_still => true,
            Some((at, before)) => now - at >= LINE_EVERY || done / tenth > before / tenth,
        };
        if !is_due {
            return None;
        }
        self.said = Some((now, done));
        let (done, of) = (done.min(of), of.max(1));
        let rate = done as f64 / elapsed.as_secs_f64();
        let left_ms = (of - done) as f64 / rate.max(1e-9) * 1_000.0;
        let why = still.unwrap_or("the daemon reports no progress");
        Some(Step {
            progress: self.name,
            done,
            of,
            per_s: (rate * 10.0).round() / 10.0,
            left_ms: (done > 0 && !self.is_still).then_some(left_ms as u64),
            later: self.later,
            not_moving: self.is_still.then(|| why.to_owned()),
        })
    }

    /// A report as text; `still` is the present obstacle.
    fn line(&self, step: &Step, still: Option<&str>, watched: bool) -> String {
        let (done, of) = (step.done, step.of);
        let name = match &self.told {
            Presentation::Lines(begin) if !watched => begin.clone(),
            _ => format!("{:<7}", self.name),
        };
        if let Some(why) = &step.not_moving {
            return format!("{name} NOT MOVING: {why}");
        }
        let left = step.left_ms.map(Duration::from_millis).map(text::duration);
        let rate = text::count(step.per_s.round() as u64);
        let full = usize::try_from(done * 14 / of).unwrap_or(14);
        let bar = format!("[{:#<full$}{:-<rest$}]", "", "", rest = 14 - full);
        match &self.told {
            Presentation::Things(what) => {
                let still = still.map_or_else(String::new, |still| format!("   {still}"));
                let took = text::duration(self.began.elapsed());
                format!("{name} {bar}  {done} of {of} {what}{still}   {took}")
            }
            Presentation::Lines(_) if !watched => {
                let soon = left.map(|left| format!(", {rate}/s, about {left}"));
                let later = step.later.filter(|later| *later > 0);
                let later = later.map(|later| format!("; {} came later", text::count(later)));
                format!(
                    "{name} {} left{}{}",
                    text::count(of - done),
                    soon.unwrap_or_default(),
                    later.unwrap_or_default()
                )
            }
            Presentation::Share | Presentation::Lines(_) => {
                let left = left.map(|left| format!("   {rate}/s   {left} left"));
                format!(
                    "{name} {bar} {:>3}%  {} of {}{}",
                    done * 100 / of,
                    text::count(done),
                    text::count(of),
                    left.unwrap_or_default()
                )
            }
        }
    }
}

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

    /// Updates a progress bar: in place on a terminal, else as occasional lines.
    pub fn progress(
        &mut self,
        bar: &mut Progress,
        done: u64,
        of: u64,
        still: Option<&str>,
    ) -> io::Result<()> {
        let come = format!(
            "{}, {} of {} done",
            bar.name,
            text::count(done),
            text::count(of)
        );
        self.on_ctrl_c(vec![("stopped", come), ("", bar.ctrl_c.clone())]);
        let is_first = bar.said.is_none();
        let is_bar = self.watched && self.style.output != Output::Jsonl;
        let Some(step) = bar.step(Instant::now(), (done, of), still, is_bar) else {
            return Ok(());
        };
        if self.style.output == Output::Jsonl {
            self.json_line(&step)?;
            return self.data.flush();
        }
        if self.style.quiet {
            return Ok(());
        }
        if is_first && is_bar {
            writeln!(self.talk, "{:<7} {}", "", printable_line(&bar.ctrl_c))?;
        }
        let line = bar.line(&step, still, is_bar);
        let line = printable_line(&line).to_string();
        match is_bar {
            // A line longer than the terminal could not be overwritten by the next one.
            true => {
                let room = usize::from(columns(io::stderr())).saturating_sub(1);
                let line: String = line.chars().take(room).collect();
                write!(self.talk, "\r\u{1b}[K{line}")?
            }
            false => writeln!(self.talk, "{line}")?,
        }
        self.talk.flush()
    }

    /// Removes the progress bar.
    pub fn progress_ends(&mut self, bar: &Progress) -> io::Result<()> {
        let is_shown = bar.said.is_some() && self.style.output != Output::Jsonl;
        if is_shown && self.watched && !self.style.quiet {
            write!(self.talk, "\r\u{1b}[K")?;
        }
        self.talk.flush()
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

    /// Asks `question`; true to go on. `what` describes in a few words what is at stake.
    ///
    /// # Errors
    /// [`Trouble`] that names the flags which answer, when no user can be asked.
    pub fn confirm(&mut self, question: &str, what: &str, stake: &Stake) -> anyhow::Result<bool> {
        match self.is_answered(what, stake)? {
            true => Ok(true),
            false => self.ask(question, stake),
        }
    }

    /// True if flags have answered what [`Printer::confirm`] would ask. Call it before showing a plan,
    /// so that only the error is printed when no user can be asked.
    ///
    /// # Errors
    /// As for [`Printer::confirm`].
    pub fn is_answered(&self, what: &str, stake: &Stake) -> Result<bool, Trouble> {
        let agreed = &self.style.agreed;
        let given = agreed.name.as_deref();
        match stake {
            Stake::Moderate if agreed.yes => return Ok(true),
            Stake::Severe(name)
                if agreed.yes && given.is_some_and(|given| is_typed(given, name)) =>
            {
                return Ok(true);
            }
            Stake::Severe(name) if given.is_some_and(|given| !is_typed(given, name)) => {
                let given = given.unwrap_or_default();
                let message = format!("--confirm says {given:?}, but this is about {name:?}");
                return Err(Trouble::usage(message));
            }
            _ => {}
        }
        match self.asks && !agreed.never_ask {
            true => Ok(false),
            false => Err(unanswered(what, stake, self.asks, agreed.yes)),
        }
    }

    fn ask(&mut self, question: &str, stake: &Stake) -> anyhow::Result<bool> {
        let expected = match stake {
            Stake::Moderate => {
                write!(self.talk, "{} [y/N] ", printable_line(question))?;
                None
            }
            Stake::Severe(name) => {
                write!(self.talk, "Type {} to go on: ", escaped(name))?;
                Some(name)
            }
        };
        self.talk.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let answer = answer.trim();
        let agreed = match expected {
            Some(name) => is_typed(answer, name),
            None => ["y", "yes"].contains(&answer.to_lowercase().as_str()),
        };
        if !agreed {
            self.say(format_args!("nothing was changed"))?;
        }
        Ok(agreed)
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

/// True if an answer names the object: as it is, as it is shown, or with a shortened hash.
fn is_typed(answer: &str, name: &str) -> bool {
    let is_short = |name: StreamName| name.short() == answer;
    *unescaped(answer) == *name || answer == name || name.parse().is_ok_and(is_short)
}

/// Width of the terminal that shows data; 80 if unknown.
fn width() -> Option<u16> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| columns(stdout))
}

fn columns(terminal: impl std::os::fd::AsFd) -> u16 {
    let size = rustix::termios::tcgetwinsize(&terminal);
    match size.map_or(0, |size| size.ws_col) {
        0 => 80,
        columns => columns,
    }
}

/// The error when a question is needed and cannot be asked.
fn unanswered(what: &str, stake: &Stake, terminal: bool, yes: bool) -> Trouble {
    let why = match terminal {
        true => "--no-input forbids it",
        false => "there is no terminal",
    };
    let answer = match stake {
        Stake::Moderate => "--yes".to_owned(),
        Stake::Severe(name) => format!("--yes --confirm {}", quoted(name)),
    };
    let message = match yes {
        true => {
            format!("--yes is not enough for this ({what}): it also needs --confirm with the name")
        }
        false => format!("this would ask ({what}), and {why}"),
    };
    Trouble::new(Exit::Usage, "would_ask", message).fact("answer", answer)
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

/// Labels in one column, texts in the next; further lines of a text are indented below its first.
pub fn aligned(facts: &[(&str, String)]) -> Vec<String> {
    let width = facts
        .iter()
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for (label, text) in facts {
        let mut label = *label;
        for part in text.split('\n') {
            lines.push(format!("{label:<width$}  {part}").trim_end().to_owned());
            label = "";
        }
    }
    lines
}

/// The facts, each text wrapped so that it fits beside its label.
pub fn fitted<'l>(facts: &[(&'l str, String)], columns: Option<u16>) -> Vec<(&'l str, String)> {
    let widest = facts.iter().map(|(label, _)| label.len()).max();
    let taken = widest.unwrap_or(0) + 2;
    let fit = |text: &String| match columns {
        Some(columns) => folded(text, usize::from(columns).saturating_sub(taken)),
        None => text.clone(),
    };
    let facts = facts.iter();
    facts.map(|(label, text)| (*label, fit(text))).collect()
}

/// Wraps a text between words; a command stays in one line, so that it can be copied.
pub fn folded(text: &str, room: usize) -> String {
    let (prose, command) = match text.find("hooklane ") {
        Some(at) => (text[..at].trim_end(), Some(&text[at..])),
        None => (text, None),
    };
    let words = prose.split(' ').skip(usize::from(prose.is_empty()));
    let words = words.chain(command);
    let mut folded = String::with_capacity(text.len());
    let mut used = 0;
    for word in words {
        let wide = word.width();
        match used {
            0 => {}
            _ if used + 1 + wide > room => {
                folded.push('\n');
                used = 0;
            }
            _ => {
                folded.push(' ');
                used += 1;
            }
        }
        folded.push_str(word);
        used += wide;
    }
    folded
}

/// Escapes everything in JSON that a terminal would act on. Such characters occur only in strings,
/// where an escape means the same.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut buffer = [0; 4];
    for c in json.chars() {
        let shown: &str = c.encode_utf8(&mut buffer);
        if c == '\n' || c.is_ascii_graphic() || c == ' ' || printable(shown).as_str() == shown {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text += &format!("\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::domain::time::Timestamp;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    struct Desk {
        printer: Printer,
        data: Paper,
        talk: Paper,
    }

    fn desk(style: Style, answers: Option<&'static str>) -> Desk {
        let (data, talk) = (Paper::default(), Paper::default());
        let printer = Printer {
            style,
            data: Box::new(data.clone()),
            talk: Box::new(talk.clone()),
            answers: Box::new(answers.unwrap_or("").as_bytes()),
            asks: answers.is_some(),
            watched: answers.is_some(),
            data_seen: false,
            width: None,
            color: false,
            stopped: watch::Sender::default(),
        };
        Desk {
            printer,
            data,
            talk,
        }
    }

    fn output(output: Output) -> Style {
        Style {
            output,
            ..Style::default()
        }
    }

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
        pieces: u32,
    }

    impl Row for Fruit {
        const HEADER: &'static [&'static str] = &["NAME", "PIECES ", "NOTE"];
        const DROPS: &'static [&'static str] = &["NOTE", "NAME"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.into(), self.pieces.to_string(), "-".into()]
        }

        fn name(&self) -> String {
            self.name.into()
        }
    }

    fn fruits() -> api::List<Fruit> {
        let fruit = |name, pieces| Fruit { name, pieces };
        let items = vec![fruit("fig", 7), fruit("evil\u{1b}[2J\nplum", 1_000_000)];
        api::List::new(Timestamp::from_millis(0), items, None)
    }

    #[test]
    fn a_table_has_two_spaces_and_no_borders_and_shows_what_would_act() {
        let mut desk = desk(output(Output::Table), None);
        desk.printer.list(&fruits(), Columns::default()).unwrap();
        assert_eq!(
            desk.data.text(),
            "NAME                  PIECES  NOTE\n\
             fig                        7  -\n\
             evil\\u{1b}[2J\\nplum  1000000  -\n"
        );
        assert_eq!(desk.talk.text(), "");
    }

    #[test]
    fn a_narrow_terminal_does_without_some_columns_unless_all_are_asked_for() {
        let header = |wide| {
            let mut desk = desk(output(Output::Table), None);
            desk.printer.width = Some(10);
            desk.printer.list(&fruits(), Columns { wide }).unwrap();
            desk.data.text().lines().next().unwrap().to_owned()
        };
        assert_eq!(header(false), " PIECES");
        assert_eq!(header(true), "NAME                  PIECES  NOTE");
    }

    #[test]
    fn every_output_has_every_item() {
        let text = |of| {
            let mut desk = desk(output(of), None);
            desk.printer.list(&fruits(), Columns::default()).unwrap();
            desk.data.text()
        };
        assert_eq!(
            text(Output::Names),
            "fig\n'evil\\u{1b}[2J\\u{a}plum'\n",
            "one item a line, quoted where xargs needs it"
        );
        assert_eq!(text(Output::Jsonl).lines().count(), 2);
        let json: serde_json::Value = serde_json::from_str(&text(Output::Json)).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["items"][1]["pieces"], 1_000_000);
    }

    #[test]
    fn json_means_the_same_and_cannot_act() {
        let json = "{\"a\":\"\u{9b}2J \u{202e} \u{7f} \u{e0041} ä\"}";
        let shown = harmless(json);
        assert_eq!(
            shown,
            "{\"a\":\"\\u009b2J \\u202e \\u007f \\udb40\\udc41 ä\"}"
        );
        let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
    }

    fn agreed(yes: bool, name: Option<&str>) -> Style {
        let name = name.map(str::to_owned);
        Style {
            agreed: Agreed {
                yes,
                name,
                never_ask: false,
            },
            ..Style::default()
        }
    }

    fn confirmed(
        style: Style,
        answers: Option<&'static str>,
        stake: &Stake,
    ) -> Result<bool, String> {
        let mut desk = desk(style, answers);
        let confirmed = desk.printer.confirm("Delete ship?", "57 streams", stake);
        confirmed.map_err(|error| {
            let trouble = super::super::exit::trouble(error).unwrap();
            assert_eq!(trouble.exit, Exit::Usage);
            desk.printer.trouble(&trouble).unwrap();
            desk.talk.text()
        })
    }

    #[test]
    fn a_moderate_question_wants_a_yes() {
        let ask = |style, answers| confirmed(style, answers, &Stake::Moderate);
        assert_eq!(ask(agreed(false, None), Some("y\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("YES\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("\n")), Ok(false));
        assert_eq!(ask(agreed(false, None), Some("")), Ok(false), "end of file");
        assert_eq!(ask(agreed(true, None), None), Ok(true));
        let refused =
            "error: this would ask (57 streams), and there is no terminal\n  answer  --yes\n";
        assert_eq!(ask(agreed(false, None), None), Err(refused.into()));
    }

    #[test]
    fn a_severe_question_wants_the_name_also_from_a_script() {
        let severe = Stake::Severe("ship".into());
        let ask = |style, answers| confirmed(style, answers, &severe);
        assert_eq!(ask(agreed(false, None), Some("ship\n")), Ok(true));
        assert_eq!(ask(agreed(false, None), Some("y\n")), Ok(false));
        assert_eq!(ask(agreed(true, Some("ship")), None), Ok(true));
        assert!(ask(agreed(true, Some("boat")), Some("ship\n")).is_err());
        let refused = ask(agreed(true, None), None).unwrap_err();
        assert!(
            refused.ends_with("answer  --yes --confirm ship\n"),
            "{refused}"
        );
        assert_eq!(ask(agreed(true, None), Some("ship\n")), Ok(true));
    }

    #[test]
    fn what_does_not_move_says_why_instead_of_when_and_nobody_reads_too_many_lines() {
        let mut bar = Progress::new("drain", "");
        let began = bar.began;
        let mut said = |ms: u64, done, watched| {
            let now = began + Duration::from_millis(ms);
            let step = bar.step(now, (done, 100), Some("no node"), watched);
            step.map(|step| bar.line(&step, Some("no node"), watched))
        };
        assert_eq!(said(900, 10, false), None, "no bar under a second");
        let line = "drain   [#-------------]  10%  10 of 100   9/s   9.9s left";
        assert_eq!(said(1_100, 10, false).as_deref(), Some(line));
        assert_eq!(said(1_200, 11, false), None, "less than a tenth more");
        assert!(said(1_300, 20, false).is_some(), "a tenth more");
        assert_eq!(said(3_200, 20, false), None);
        let still = Some("drain   NOT MOVING: no node".to_owned());
        assert_eq!(said(3_400, 20, false), still);
        assert_eq!(said(3_500, 20, false), None, "it is said once");
        assert_eq!(said(3_600, 20, true), still, "a bar is always there");
        assert!(
            said(14_000, 20, false).is_some(),
            "and again after ten seconds"
        );
        assert!(said(14_100, 40, true).is_some_and(|line| line.contains("40%")));
    }

    #[test]
    fn few_things_are_counted_and_lines_say_what_is_left() {
        let line = |mut bar: Progress, watched| {
            bar.later = Some(1_776);
            let now = bar.began + Duration::from_secs(24);
            let step = bar
                .step(now, (1_704, 2_911), Some("a turn"), watched)
                .unwrap();
            bar.line(&step, Some("a turn"), watched)
        };
        let drain = || Progress::new("drain", "").in_lines("drain default-115-2:".to_owned());
        assert_eq!(
            line(drain(), false),
            "drain default-115-2: 1,207 left, 71/s, about 17s; 1,776 came later"
        );
        assert_eq!(
            line(drain(), true),
            "drain   [########------]  58%  1,704 of 2,911   71/s   17s left"
        );
        let mut bar = Progress::new("resize", "").of_things("lanes sealed");
        let now = bar.began + Duration::from_secs(2);
        let step = bar.step(now, (7, 8), None, true).unwrap();
        let said = bar.line(&step, Some("lane 3: a turn runs"), true);
        let expected = "resize  [############--]  7 of 8 lanes sealed   lane 3: a turn runs   ";
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn a_long_text_is_broken_between_words_and_a_command_is_not() {
        assert_eq!(folded("one two  three four", 9), "one two \nthree\nfour");
        assert_eq!(folded("unbreakable", 4), "unbreakable");
        assert_eq!(
            folded("hooklane lanes resume 3", 9),
            "hooklane lanes resume 3"
        );
        let folded = folded("it goes on. Back: hooklane lanes resume 3", 12);
        assert_eq!(folded, "it goes on.\nBack:\nhooklane lanes resume 3");
    }

    #[test]
    fn no_input_never_asks() {
        let mut style = agreed(false, None);
        style.agreed.never_ask = true;
        let refused = confirmed(style, Some("y\n"), &Stake::Moderate).unwrap_err();
        assert!(refused.contains("--no-input"), "{refused}");
    }

    #[test]
    fn an_error_is_one_line_with_aligned_facts_or_json_on_stderr() {
        let trouble = Trouble::new(Exit::Missing, "no_such_hook", "no hook \"biling\"")
            .fact("all", "hooklane hooks list")
            .fact("similar", "billing");
        let mut people = desk(output(Output::Table), None);
        people.printer.trouble(&trouble).unwrap();
        assert_eq!(
            people.talk.text(),
            "error: no hook \"biling\"\n  all      hooklane hooks list\n  similar  billing\n"
        );
        let mut program = desk(output(Output::Json), None);
        program.printer.trouble(&trouble).unwrap();
        let json: serde_json::Value = serde_json::from_str(&program.talk.text()).unwrap();
        assert_eq!(json["error"]["code"], "no_such_hook");
        assert_eq!(json["error"]["exit"], 5);
        assert_eq!(program.data.text(), "");
    }

    #[test]
    fn quiet_still_prints_data() {
        let mut style = output(Output::Table);
        style.quiet = true;
        let mut desk = desk(style, Some(""));
        desk.printer.say(format_args!("talk")).unwrap();
        desk.printer.foot(format_args!("foot")).unwrap();
        desk.printer.line("data").unwrap();
        assert_eq!(
            (desk.data.text(), desk.talk.text()),
            ("data\n".into(), String::new())
        );
    }

    #[test]
    fn colour_is_asked_for_in_order() {
        let wanted = |color: Color, terminal, vars: &[(&str, &str)]| {
            color.wanted(terminal, |name| {
                let found = vars.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let term = ("TERM", "xterm");
        assert!(wanted(Color::Always, false, &[("NO_COLOR", "1")]));
        assert!(!wanted(Color::Auto, true, &[("NO_COLOR", "1"), term]));
        assert!(wanted(Color::Auto, true, &[("NO_COLOR", ""), term]));
        assert!(wanted(Color::Auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!wanted(Color::Auto, true, &[("TERM", "dumb")]));
        assert!(!wanted(Color::Auto, false, &[term]));
    }
}
