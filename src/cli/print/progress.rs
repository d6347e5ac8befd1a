//! Progress of work that takes more than a second: a bar on a terminal, else occasional lines.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::layout::columns;
use super::{Output, Printer};
use crate::text::{self, printable_line};

/// Duration below which no bar is shown.
const NO_BAR: Duration = Duration::from_secs(1);

/// Interval between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Time without progress after which the bar says that nothing moves.
const STILL: Duration = Duration::from_secs(2);

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

/// Form in which progress is printed.
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

impl Printer {
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
