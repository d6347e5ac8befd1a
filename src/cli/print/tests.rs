#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use super::*;
use crate::cli::Exit;
use crate::domain::time::Timestamp;

#[derive(Clone, Default)]
pub struct Paper(Arc<Mutex<Vec<u8>>>);

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
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub struct Desk {
    pub printer: Printer,
    data: Paper,
    pub talk: Paper,
}

pub fn desk(style: Style, answers: Option<&'static str>) -> Desk {
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
