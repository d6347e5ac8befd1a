//! Screens, drawn from a snapshot that is an incident seen from every side.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier, Style};

use super::app::{App, Link, Message, Mode};
use super::effect::{Action, Effect};
use super::theme::Theme;
use super::view::{LaneView, StreamShown, StreamView, View};
use crate::api::{Eta, EventRow, Lane, LaneDetail, Severity, Snapshot, Window};
use crate::domain::lane::LaneId;
use crate::domain::name::Name;
use crate::domain::time::Timestamp;

const PLAIN: Theme = Theme {
    colour: false,
    light: false,
    ascii: false,
};

fn at() -> Timestamp {
    Timestamp::from_millis(1_795_489_154_000)
}

/// Lane 3 has a held cursor, lane 5 is paused, lane 2 has a name that wants to act on the terminal.
fn snapshot(lanes: u16) -> Snapshot {
    let lane = |index: u16| {
        serde_json::json!({
            "lane": format!("default-115-{index}"), "index": index, "state": "active",
            "set_aside": 0, "waiting": 0, "held": 0, "oldest_ms": 22, "flow_ms": 22,
            "backlog": 12, "backlog_flowing": 12, "in_per_s": 71.0, "out_per_s": 71.0,
            "eta": "steady", "eta_ms": null,
            "wait_ms": {"p50": 4.0, "p90": 11.0, "p99": 22.0, "max": 61.0},
            "work_ms": {"p50": 12.0, "p90": 14.0, "p99": 18.0, "max": 20.0},
            "node": "eu-1", "worst": null, "busy": 0.34, "cursors": 221, "trend": [2, 1, 1],
        })
    };
    let mut lanes: Vec<Lane> = (0..lanes)
        .map(|index| serde_json::from_value(lane(index)).unwrap())
        .collect();
    if let Some(bad) = lanes.get_mut(3) {
        (bad.set_aside, bad.held, bad.severity) = (1, 1, Severity::Trouble);
        (bad.oldest_ms, bad.backlog) = (Some(1_087_000), 16_947);
        bad.eta = Some(Eta::Held);
    }
    if let Some(paused) = lanes.get_mut(5) {
        paused.state = crate::api::LaneState::Paused;
        (paused.severity, paused.by) = (Severity::Unusual, Some("ana".to_owned()));
        paused.eta = Some(Eta::Resume);
    }
    if let Some(hostile) = lanes.get_mut(2) {
        hostile.node = Some("\u{1b}[2Jeu-1".to_owned());
    }
    let json = serde_json::json!({
        "schema": 1, "seq": 7, "at": at(), "started_at": at(), "version": "0.1.0", "node": "eu-1",
        "viewer": {"name": "ana", "may_act": true}, "namespace": "default", "generation": 115,
        "hooks_count": 6, "streams_count": 1_204,
        "verdicts": [
            {"rule": 9, "class": "CODE", "severity": "trouble",
             "text": "billing/acme -> reduce: at seq 912: TypeError in sum.js:12: x, waits for 18m07",
             "more": "Holds up only its own 16,940 events (96% of all). More lanes: no, 1 stream.",
             "since": null, "events": 16_940, "lanes_that_help": null, "lane": null,
             "stream": "billing/acme"},
            {"rule": 11, "class": "ON PURPOSE", "severity": "unusual", "text": "lane 5 paused",
             "more": null, "since": null, "events": 0, "lanes_that_help": null,
             "lane": "default-115-5", "stream": null}],
        "total": {"oldest_ms": 1_087_000, "flow_ms": 88, "set_aside": 1, "waiting": 0, "held": 1,
            "backlog": 17_596, "backlog_per_s": 16.2, "in_per_s": 443.0, "out_per_s": 427.0,
            "eta": "held", "eta_ms": null, "wait_ms": null, "work_ms": null, "cursors": 1_731,
            "busiest": 0.38},
        "storage": {"accepting": true, "accepted_per_s": 241.0, "commit_p99_ms": 3.0,
            "commit_normal_ms": 3.0, "error": null},
        "lanes": [],
        "cursors": [{"stream": "billing/acme", "handler": "reduce", "lane": 3, "generation": 115, "condition": "held",
            "position": 911, "head": 17_851, "behind": 16_940, "oldest_ms": 1_087_000, "tries": 0,
            "result": "at seq 912: \u{1b}]52;c;x\u{7} TypeError", "retry_at": null, "next": null}],
        "nodes": [{"node": "eu-1", "lanes": 10, "lanes_here": 8, "owns": "0-7", "busy": 0.34, "cpu": 0.4,
            "commit_p99_ms": 3.0, "beat_ms": 400, "up_ms": 276_000_000, "version": "0.1.0",
            "leaving": false}],
        "namespaces": [],
        "hooks": [
            {"hook": "billing", "in_per_s": 104.0, "normal_per_s": 101.0, "paused": false,
                "streams": 310, "handlers": "reduce latest", "verify": "write key"},
            {"hook": "orders", "in_per_s": 98.0, "normal_per_s": null, "paused": true,
                "streams": 1_204_802, "handlers": "reduce \u{1b}[2Jsum.js", "verify": "write key"}],
        "history": [{"at": at(), "backlog": 17_000, "in_per_s": 440.0, "out_per_s": 427.0,
            "flow_ms": 88, "waits": [9_000, 200, 0, 0, 0, 0, 30]}],
        "log": [{"at": at(), "severity": "trouble", "scope": "billing/acme -> reduce",
            "what": "set aside: TypeError"}],
    });
    let snapshot: Snapshot = serde_json::from_value(json).unwrap();
    Snapshot { lanes, ..snapshot }
}

fn app(theme: Theme, lanes: u16) -> App {
    let name = Name::default_namespace();
    let mut app = App::new(name, theme, false, Duration::from_secs(1));
    app.now = at();
    app.update(Message::Snapshot(Box::new(snapshot(lanes))));
    app
}

fn press(app: &mut App, code: KeyCode) -> Option<Effect> {
    app.update(Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn typed(app: &mut App, text: &str) {
    for c in text.chars() {
        press(app, KeyCode::Char(c));
    }
}

fn screen(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| super::draw(app, frame)).unwrap();
    terminal
}

fn text(app: &App, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(app, width, height);
    let cells = terminal
        .backend()
        .buffer()
        .content
        .chunks(usize::from(width));
    let row = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect();
    cells.map(row).collect()
}

/// The newest first; what is in them wants to act on the terminal.
fn events() -> Vec<EventRow> {
    let row = |seq: i64, key: &str, fate: serde_json::Value, body: &str| {
        let id = format!("evt_01m834emheemq8k9w37k2m9qx{seq}");
        let row = serde_json::json!({"event": id, "stream": format!("billing/{key}"), "seq": seq,
            "received_at": at(), "size": body.len(), "key": null, "dedupe_key": "d-\u{1b}[1m",
            "headers": {"x-evil": "\u{1b}]0;owned\u{7}\r\nnext"}, "body": body, "fate": [fate]});
        serde_json::from_value(row).unwrap()
    };
    let fate = |outcome: &str| serde_json::json!({"handler": "reduce", "outcome": outcome, "reason": null});
    vec![
        row(
            4,
            "日本\u{1b}[2J",
            fate("waiting"),
            "{\"日本\":\"\u{1b}[31mred\u{202e}\"}\n\t\u{9b}2J🦀 second",
        ),
        row(3, "acme", fate("held"), &"x".repeat(3_000)),
        row(2, "zeta", fate("skipped"), ""),
        row(1, "acme", fate("folded"), "1"),
    ]
}

fn lane_view(name: &str) -> View {
    View::Lane(LaneView::new(name.parse().unwrap()))
}

fn stream_view(name: &str) -> View {
    View::Stream(StreamView::new(name.parse().unwrap(), None))
}

fn is_help(app: &App) -> bool {
    matches!(app.mode, Mode::Help { .. })
}

fn views() -> Vec<App> {
    let mut views = vec![app(PLAIN, 8), app(PLAIN, 1_024)];
    let mut lane = app(PLAIN, 8);
    lane.view = lane_view("default-115-3");
    views.push(lane);
    let mut stream = app(PLAIN, 8);
    press(&mut stream, KeyCode::Char('!'));
    let json = serde_json::json!({"stream": "billing/acme", "head": 17_851, "slot": 28_114,
        "lane": "default-115-3", "cursors": [{"stream": "billing/acme", "handler": "reduce",
        "condition": "held", "position": 911, "head": 17_851, "behind": 16_940,
        "oldest_ms": 1_087_000, "tries": 0, "reason": "at seq 912: TypeError", "retry_at": null,
        "next": "evt_01m834emheemq8k9w37k2m9qx4", "lane": "default-115-3"}]});
    let lane = serde_json::to_value(&snapshot(8).lanes[3]).unwrap();
    let why = serde_json::json!({"stream": "billing/acme", "head": 17_851, "slot": 28_114,
        "namespace": "default", "lane": lane, "class": "CODE",
        "verdict": "TypeError in sum.js:12 at seq 912; holds up only its own 16,940 events",
        "cursors": [{"handler": "reduce", "condition": "held", "position": 911, "behind": 16_940,
        "reason": "at seq 912: TypeError\u{1b}[31m", "since": at(), "tries": 0, "retry_at": null,
        "mark": null, "next": "evt_01m834emheemq8k9w37k2m9qx4", "next_received_at": at(),
        "ends": "when somebody retries it or skips the event",
        "helps": [{"command": "hooklane streams retry billing/acme", "what": "try now"}],
        "does_not": ["more lanes (one stream stays in one lane)"]}], "event": null});
    let shown = StreamShown {
        stream: serde_json::from_value(json).unwrap(),
        why: serde_json::from_value(why).unwrap(),
        handler: Some("reduce".parse().unwrap()),
        waiting: events(),
    };
    stream.update(Message::Stream(Ok(Box::new(shown))));
    for key in ['R', 'K', 'H', 'a'] {
        let mut asked = app(PLAIN, 8);
        asked.view = stream.view.clone();
        press(&mut asked, KeyCode::Char(key));
        views.push(asked);
    }
    views.push(stream);
    for key in ['l', '?', 'r', 'a', '/', 'n', 'h'] {
        let mut other = app(PLAIN, 8);
        press(&mut other, KeyCode::Char(key));
        views.push(other);
    }
    let mut nodes = app(PLAIN, 8);
    press(&mut nodes, KeyCode::Tab);
    views.push(nodes);
    let mut list = app(PLAIN, 8);
    press(&mut list, KeyCode::Char('e'));
    list.update(Message::Events(Ok(events())));
    let mut one = app(PLAIN, 8);
    press(&mut one, KeyCode::Char('e'));
    one.update(Message::Events(Ok(events())));
    press(&mut one, KeyCode::Enter);
    one.update(Message::Event(Ok(Box::new(events().remove(0)))));
    views.extend([list, one]);
    let mut lost = app(PLAIN, 8);
    lost.update(Message::Lost {
        why: "hooklane.sock refuses connections".to_owned(),
        retry_at: at().after(Duration::from_secs(3)),
    });
    views.push(lost);
    let name = Name::default_namespace();
    let mut nothing = App::new(name, PLAIN, false, Duration::from_secs(1));
    nothing.now = at();
    views.push(nothing);
    views
}

#[test]
fn the_first_screen_names_the_stream_at_fault_what_it_holds_up_and_whether_lanes_help() {
    let rows = text(&app(PLAIN, 8), 80, 24);
    assert!(rows[0].starts_with(" hooklane  eu-1   default: 8 lanes gen 115, 1 node"));
    assert!(
        rows[0].trim_end().ends_with("LIVE 1s  win 15m  02:59:14Z"),
        "{}",
        rows[0]
    );
    assert!(rows[1].contains("OLDEST 18m07  FLOW 88ms  HELD 1  ETA held  BACKLOG 17,596 ▲16/s"));
    assert!(rows[2].starts_with(" !! CODE  billing/acme -> reduce: at seq 912"));
    let said = rows[..6].join(" ");
    assert!(said.contains("Holds up only its own 16,940 events (96% of all). More lanes: no"));
    let lane = rows.iter().find(|row| row.contains(" 3 active")).unwrap();
    assert!(
        lane.starts_with(" ! 3 active      1  18m07  22ms ███ 16,947   71    71"),
        "{lane}"
    );
    assert!(lane.trim_end().ends_with("held"), "{lane}");
    assert!(rows.iter().any(|row| row.starts_with(" ~ 5 paused")));
    assert!(
        rows[23].contains("? ") && rows[23].trim_end().ends_with('q'),
        "{}",
        rows[23]
    );
}

#[test]
fn no_size_makes_any_screen_panic() {
    for app in views() {
        for width in (1..=200).step_by(7) {
            for height in (1..=60).step_by(5) {
                drop(screen(&app, width, height));
            }
        }
        for (width, height) in [(1, 1), (40, 10), (59, 15), (60, 16), (80, 24), (140, 40)] {
            drop(screen(&app, width, height));
        }
    }
}

#[test]
fn ascii_is_only_ascii_and_without_colour_there_is_none() {
    for mut app in views() {
        app.theme.ascii = true;
        for (width, height) in [(40, 10), (80, 24), (140, 40)] {
            let terminal = screen(&app, width, height);
            for cell in &terminal.backend().buffer().content {
                assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
                assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
            }
        }
    }
}

#[test]
fn nothing_from_outside_acts_on_the_terminal_and_no_lane_is_ever_blocked() {
    for app in views() {
        let shown = text(&app, 140, 40).join("\n");
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'));
        assert!(!shown.to_lowercase().contains("blocked"));
    }
}

#[test]
fn the_selected_row_is_reversed_and_follows_its_lane_through_sort_and_filter() {
    let mut app = app(PLAIN, 8);
    for _ in 0..3 {
        press(&mut app, KeyCode::Down);
    }
    assert_eq!(app.lane, "default-115-3".parse().ok());
    press(&mut app, KeyCode::Char('s'));
    assert_eq!(app.lanes()[0].id.to_string(), "default-115-3", "by age");
    assert_eq!(app.selected(&app.lanes()), Some(0));
    typed(&mut app, "/state:active -node:eu-2");
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.lanes().len(), 7);
    assert!(text(&app, 80, 24)[23].contains("filter: state:active -node:eu-2"));
    assert_eq!(app.lane, "default-115-3".parse().ok());
    let terminal = screen(&app, 80, 24);
    let rows = terminal.backend().buffer().content.chunks(80);
    let reversed = rows.filter(|row| row[0].modifier.contains(Modifier::REVERSED));
    let row: String = reversed.flatten().map(|cell| cell.symbol()).collect();
    assert!(row.starts_with(">! 3 active"), "{row}");
}

#[test]
fn an_action_is_done_after_its_plan_only_and_cancel_is_the_default() {
    let mut app = app(PLAIN, 8);
    press(&mut app, KeyCode::Char('a'));
    press(&mut app, KeyCode::Enter);
    assert_eq!(press(&mut app, KeyCode::Enter), None, "Enter alone cancels");
    assert!(app.dialog.is_none());

    press(&mut app, KeyCode::Char('a'));
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Tab);
    let done = press(&mut app, KeyCode::Enter);
    let pause = Action::Lane("pause", "default-115-0".parse().unwrap());
    assert_eq!(done, Some(Effect::Do(pause)));

    press(&mut app, KeyCode::Char('r'));
    typed(&mut app, "0");
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    typed(&mut app, "16");
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Effect::Plan(16)));
    let plan_json = serde_json::json!({"namespace": "default", "from": 8,
        "to": 16, "generation": 115, "next_generation": null, "streams": 1_204, "moves": 600,
        "set_aside": 1, "backlog": 17_596, "fullest_lane": 16_947, "fullest_lane_after": 16_940,
        "fullest_stream": 16_940, "in_the_way": []});
    let plan = serde_json::from_value(plan_json.clone());
    app.update(Message::Plan(Ok(plan.unwrap())));
    typed(&mut app, "8");
    assert_eq!(
        press(&mut app, KeyCode::Enter),
        None,
        "another number than the plan's"
    );
    typed(&mut app, "16");
    assert!(matches!(
        press(&mut app, KeyCode::Enter),
        Some(Effect::Do(Action::Resize(_)))
    ));

    let plan: Option<Box<crate::api::Resize>> = serde_json::from_value(plan_json).ok();
    let same = plan.map(|plan| Box::new(crate::api::Resize { to: 8, ..*plan }));
    app.update(Message::Plan(Ok(same.unwrap())));
    assert!(app.dialog.is_none(), "there is nothing to do");
    assert_eq!(app.note.as_deref(), Some("already 8 lanes"));
}

#[test]
fn who_may_only_look_is_told_so() {
    let mut app = app(PLAIN, 8);
    let mut seen = snapshot(8);
    seen.viewer.may_act = false;
    seen.viewer.name = "key grafana".to_owned();
    app.update(Message::Snapshot(Box::new(seen)));
    press(&mut app, KeyCode::Char('r'));
    assert!(app.dialog.is_none());
    let why = "key grafana may not change anything";
    assert_eq!(app.note.as_deref(), Some(why));

    press(&mut app, KeyCode::Char('a'));
    let rows = text(&app, 80, 24).join("\n");
    assert!(
        rows.contains("  pause lane 0") && rows.contains(why),
        "{rows}"
    );
    press(&mut app, KeyCode::Down);
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    assert!(app.dialog.is_none(), "nothing was asked");

    let mut admin = self::app(PLAIN, 8);
    admin.read_only = true;
    for key in ['r', 'a'] {
        press(&mut admin, KeyCode::Char(key));
        for _ in 0..2 {
            press(&mut admin, KeyCode::Tab);
            let want = press(&mut admin, KeyCode::Enter);
            assert!(
                !matches!(want, Some(Effect::Do(_) | Effect::Plan(_))),
                "{want:?}"
            );
        }
        admin.view = View::Overview;
    }
    assert!(admin.dialog.is_none());
}

#[test]
fn every_action_of_a_stream_asks_first_and_is_about_the_selected_handler() {
    let billing = || "billing/acme".parse().unwrap();
    let reduce = || "reduce".parse().unwrap();
    let event = "evt_01m834emheemq8k9w37k2m9qx4".parse().unwrap();
    let stream = || {
        let mut views = views().into_iter();
        views
            .find(|app| app.stream().is_some() && app.dialog.is_none())
            .unwrap()
    };
    for (key, verb) in [('R', "retry"), ('H', "release")] {
        let mut app = stream();
        assert_eq!(press(&mut app, KeyCode::Char(key)), None);
        press(&mut app, KeyCode::Tab);
        let done = press(&mut app, KeyCode::Enter);
        let action = Action::Cursor(verb, billing(), reduce());
        assert_eq!(done, Some(Effect::Do(action)));

        press(&mut app, KeyCode::Char(key));
        assert_eq!(press(&mut app, KeyCode::Enter), None, "Enter alone cancels");
    }
    let footer = text(&stream(), 140, 40).pop().unwrap();
    assert!(footer.contains("H release"), "{footer}");
    let mut app = stream();
    press(&mut app, KeyCode::Char('K'));
    typed(&mut app, "7k2m9qx5");
    assert_eq!(press(&mut app, KeyCode::Enter), None, "another event");
    typed(&mut app, "7k2m9qx4");
    let done = press(&mut app, KeyCode::Enter);
    assert_eq!(
        done,
        Some(Effect::Do(Action::Skip(billing(), reduce(), event)))
    );

    let mut app = stream();
    press(&mut app, KeyCode::Char('a'));
    for _ in 0..9 {
        press(&mut app, KeyCode::Down);
    }
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Tab);
    let done = press(&mut app, KeyCode::Enter);
    let pause = Action::Hook("pause", "billing".parse().unwrap());
    assert_eq!(done, Some(Effect::Do(pause)), "the last of the menu");
}

#[test]
fn what_has_changed_under_a_dialog_is_not_done() {
    let mut app = app(PLAIN, 8);
    press(&mut app, KeyCode::Char('r'));
    typed(&mut app, "16");
    let mut resized = snapshot(8);
    app.update(Message::Snapshot(Box::new(resized.clone())));
    assert!(app.dialog.is_some(), "nothing has changed");
    resized.generation = 116;
    app.update(Message::Snapshot(Box::new(resized.clone())));
    assert!(app.dialog.is_none());
    let rows = text(&app, 80, 24).join("\n");
    assert!(
        rows.contains("changed meanwhile, nothing was done"),
        "{rows}"
    );

    press(&mut app, KeyCode::Char('a'));
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Tab);
    resized.lanes[0].state = crate::api::LaneState::Paused;
    app.update(Message::Snapshot(Box::new(resized)));
    let after = press(&mut app, KeyCode::Enter);
    assert!(!matches!(after, Some(Effect::Do(_))), "{after:?}");
}

#[test]
fn what_a_dialog_asks_is_on_the_smallest_screen() {
    for app in views() {
        let Some(dialog) = &app.dialog else { continue };
        let shown = format!("{dialog:?}");
        let asks = shown.split("asks: ").nth(1).unwrap();
        let question = match asks.split_whitespace().next() {
            Some("Typed") => "]",
            Some("Count") => "New number",
            Some("Yes") => "> Cancel",
            _ => "> ",
        };
        for (width, height) in [(80, 24), (60, 16), (80, 6), (40, 8), (40, 5)] {
            let rows = text(&app, width, height).join("\n");
            assert!(rows.contains(question), "{width}x{height}\n{rows}");
        }
    }
}

#[test]
fn keys_that_edit_or_are_capital_change_nothing_by_themselves() {
    let acts = |want: &Option<Effect>| matches!(want, Some(Effect::Do(_)));
    for app in views() {
        if app.dialog.is_some() || is_help(&app) {
            continue;
        }
        for code in [KeyCode::Backspace, KeyCode::Delete, KeyCode::Insert] {
            let (mut pressed, shown) = (app_like(&app), text(&app, 80, 24));
            assert!(!acts(&press(&mut pressed, code)));
            assert!(
                pressed.dialog.is_none()
                    && (app.mode == Mode::Filter || text(&pressed, 80, 24) == shown)
            );
        }
        for c in ('!'..='~').chain(['\u{4}', '\u{b}', ' ']) {
            assert!(!acts(&press(&mut app_like(&app), KeyCode::Char(c))), "{c}");
        }
    }
}

/// Another that shows the same.
fn app_like(app: &App) -> App {
    let mut other = self::app(app.theme, 8);
    (other.latest, other.link) = (app.latest.clone(), app.link.clone());
    (other.view, other.trail) = (app.view.clone(), app.trail.clone());
    (other.lane, other.mode) = (app.lane.clone(), app.mode);
    other.shows_heat = app.shows_heat;
    other
}

#[test]
fn events_follow_the_newest_until_one_is_held_and_the_filter_is_asked_of_the_daemon() {
    let mut app = app(PLAIN, 8);
    assert_eq!(
        press(&mut app, KeyCode::Char('e')),
        Some(Effect::Events(None, None, 16))
    );
    let all = events();
    app.update(Message::Events(Ok(all[2..].to_vec())));
    assert_eq!(app.event_row(), Some(&all[2]));
    press(&mut app, KeyCode::Down);
    app.update(Message::Events(Ok(all.clone())));
    assert_eq!(app.event_row(), Some(&all[3]), "held");
    let rows = text(&app, 80, 24);
    assert!(rows[0].contains("HOLD, 2 new"), "{}", rows[0]);
    press(&mut app, KeyCode::Char(' '));
    app.update(Message::Events(Ok(all.clone())));
    assert_eq!(app.event_row(), Some(&all[0]));
    assert!(text(&app, 80, 24)[0].contains("FOLLOW"));

    typed(&mut app, "/stream:billing/acme -fate:done");
    let want = press(&mut app, KeyCode::Enter);
    let stream = Some("billing/acme".parse().unwrap());
    assert_eq!(want, Some(Effect::Events(None, stream, 100)));
    assert_eq!(app.events(), [&all[1]]);
    assert_eq!(
        press(&mut app, KeyCode::Enter),
        Some(Effect::Event(all[1].event))
    );
}

#[test]
fn what_senders_put_into_events_is_shown_and_not_obeyed() {
    let hostile = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\r'];
    for app in views() {
        for (width, height) in [(60, 16), (80, 24), (140, 40)] {
            let shown = text(&app, width, height).join("\n");
            assert!(!shown.contains(hostile), "{shown}");
            assert!(!super::plain(&app, usize::from(width)).contains(hostile));
        }
    }
    let mut views = views().into_iter();
    let one = views
        .find(|app| matches!(app.view, View::Event(_)))
        .unwrap();
    let shown = text(&one, 80, 24).join("\n");
    assert!(
        shown.contains("x-evil: \\u{1b}]0;owned\\u{7}\\r\\nnext"),
        "{shown}"
    );
    // Wide characters have a second cell, which is empty.
    assert!(shown.contains(r"\u{1b}[31mred\u{202e}"), "{shown}");
}

#[test]
fn a_namespace_a_window_and_an_interval_are_followed_anew_and_a_node_shows_its_lanes() {
    let mut app = app(PLAIN, 8);
    assert_eq!(press(&mut app, KeyCode::Char(']')), Some(Effect::Follow));
    assert_eq!(
        (app.window, press(&mut app, KeyCode::Char(']'))),
        (Window::Hour, None)
    );
    assert_eq!(press(&mut app, KeyCode::Char('-')), Some(Effect::Follow));
    assert_eq!(app.interval, Duration::from_secs(2));
    let mut seen = snapshot(8);
    let line = |name: &str| {
        serde_json::json!({"namespace": name, "lanes": 2, "generation": 3,
        "set_aside": 0, "oldest_ms": null, "flow_ms": null, "backlog": 0})
    };
    seen.namespaces =
        serde_json::from_value(serde_json::json!([line("default"), line("globex")])).unwrap();
    app.update(Message::Snapshot(Box::new(seen)));
    press(&mut app, KeyCode::Char('n'));
    press(&mut app, KeyCode::Down);
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Effect::Follow));
    assert_eq!(
        (app.namespace.as_str(), &app.view),
        ("globex", &View::Overview)
    );

    press(&mut app, KeyCode::Tab);
    assert_eq!(app.view, View::Nodes(None));
    press(&mut app, KeyCode::Enter);
    assert_eq!((app.filter.text(), app.lanes().len()), ("node:eu-1", 8));
}

#[test]
fn the_mark_of_a_node_follows_the_verdict_about_its_silence() {
    let mut app = app(PLAIN, 8);
    press(&mut app, KeyCode::Tab);
    for (beat_ms, mark) in [(1_900, ' '), (2_000, '~'), (8_900, '~'), (9_000, '!')] {
        app.latest.as_mut().unwrap().nodes[0].beat_ms = Some(beat_ms);
        let rows = text(&app, 80, 24);
        let row = rows.iter().find(|row| row.contains("0-7")).unwrap();
        assert_eq!(row.chars().nth(1), Some(mark), "{beat_ms}: {row}");
    }
}

#[test]
fn the_mark_of_a_namespace_is_that_of_its_worst_verdict() {
    let mut app = app(PLAIN, 8);
    let line = |(name, severity): (&str, &str)| {
        serde_json::json!({"namespace": name, "lanes": 2, "generation": 3, "severity": severity,
        "set_aside": 0, "oldest_ms": null, "flow_ms": null, "backlog": 0})
    };
    let all = [
        ("default", "fine"),
        ("globex", "unusual"),
        ("initech", "trouble"),
    ];
    let mut seen = snapshot(8);
    seen.namespaces = serde_json::from_value(all.map(line).into()).unwrap();
    app.update(Message::Snapshot(Box::new(seen)));
    press(&mut app, KeyCode::Char('n'));
    for (width, height) in [(140, 40), (80, 24), (60, 16)] {
        let rows = text(&app, width, height);
        for (mark, (name, _)) in [' ', '~', '!'].into_iter().zip(all) {
            let row = rows.iter().find(|row| row.contains(name)).unwrap();
            let before = row.split(name).next().unwrap();
            assert_eq!(before.chars().nth(1), Some(mark), "{name}: {row}");
        }
    }
}

#[test]
fn a_lane_shows_all_of_its_cursors_once_they_are_known_and_the_way_back_is_the_way_there() {
    let mut app = app(PLAIN, 8);
    press(&mut app, KeyCode::Char('!'));
    assert!(app.view.is_same(&stream_view("billing/acme")));
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.view, View::Overview);
    let lane: LaneId = "default-115-3".parse().unwrap();
    assert_eq!(
        press(&mut app, KeyCode::Enter),
        Some(Effect::Lane(lane.clone()))
    );
    let seen = snapshot(8);
    let mut cursors = vec![seen.cursors[0].clone(), seen.cursors[0].clone()];
    cursors[1].stream = "billing/zeta".parse().unwrap();
    let shown = LaneDetail {
        lane: seen.lanes[3].clone(),
        is_all: true,
        cursors,
    };
    app.update(Message::Lane(Ok(Box::new(shown))));
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Enter);
    assert!(app.view.is_same(&stream_view("billing/zeta")));
    press(&mut app, KeyCode::Char('e'));
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Esc);
    assert!(app.view.is_same(&lane_view(&lane.to_string())));
}

#[test]
fn a_frozen_screen_says_since_when_and_a_lost_daemon_leaves_its_last_words() {
    let mut app = app(PLAIN, 8);
    press(&mut app, KeyCode::Char('f'));
    app.now = at().after(Duration::from_secs(41));
    app.update(Message::Snapshot(Box::new(snapshot(3))));
    let rows = text(&app, 80, 24);
    assert!(rows[0].contains("FROZEN 02:59:14Z, 41s ago"), "{}", rows[0]);
    assert_eq!(app.lanes().len(), 8);
    press(&mut app, KeyCode::Char('f'));
    assert_eq!(app.lanes().len(), 3);

    let retry_at = app.now.after(Duration::from_secs(3));
    for _ in 0..2 {
        let why = "hooklane.sock refuses connections".to_owned();
        app.update(Message::Lost { why, retry_at });
    }
    assert!(matches!(app.link, Link::Lost { tries: 2, .. }));
    let rows = text(&app, 80, 24);
    assert!(
        rows[0].contains("LOST") && rows[0].contains("retry in 3.0s (2)"),
        "{}",
        rows[0]
    );
    assert!(rows[1].contains("SHOWING OLD DATA") && rows[1].contains("refuses connections"));
    app.update(Message::Snapshot(Box::new(snapshot(8))));
    assert!(text(&app, 80, 24)[0].contains("LIVE"));
}

#[test]
fn a_lost_daemon_leaves_old_numbers_that_look_old_and_one_that_is_new_says_so() {
    let underlined = |app: &App| {
        let terminal = screen(app, 80, 24);
        let cell = terminal.backend().buffer()[(1, 0)].clone();
        cell.modifier.contains(Modifier::UNDERLINED)
    };
    let dim = |app: &App| {
        let terminal = screen(app, 80, 24);
        let cell = terminal.backend().buffer()[(1, 2)].clone();
        cell.modifier.contains(Modifier::DIM)
    };
    let lost = |colour| {
        let ascii = false;
        let mut app = app(
            Theme {
                colour,
                light: false,
                ascii,
            },
            8,
        );
        assert!(!underlined(&app) && !dim(&app));
        let (why, retry_at) = ("refused".to_owned(), at());
        app.update(Message::Lost { why, retry_at });
        app
    };
    assert!(underlined(&lost(false)));
    let mut app = lost(true);
    assert!(dim(&app));
    let mut anew = snapshot(8);
    anew.started_at = at().after(Duration::from_secs(48));
    app.update(Message::Snapshot(Box::new(anew)));
    assert!(!dim(&app));
    let rows = text(&app, 80, 24).join("\n");
    assert!(
        rows.contains("restarted 03:00:02Z, counters from there"),
        "{rows}"
    );
}

#[test]
fn lanes_of_the_generation_that_goes_keep_a_name_that_can_be_read() {
    let mut app = app(PLAIN, 8);
    let mut resized = snapshot(8);
    resized.generation = 116;
    resized.lanes[7].id.generation = 116;
    app.update(Message::Snapshot(Box::new(resized)));
    for width in [60, 80, 140] {
        let rows = text(&app, width, 24);
        let has = |start: &str| rows.iter().any(|row| row.starts_with(start));
        assert!(
            has(" !115-3 active  ") && has("      7 active  "),
            "{width}: {rows:#?}"
        );
    }
}

#[test]
fn whatever_a_server_says_is_shown_and_not_obeyed() {
    let hostile = "\u{202e}\u{1b}[31m\u{200b}";
    let mut app = app(PLAIN, 8);
    let mut seen = snapshot(8);
    seen.verdicts[0].more = Some(hostile.to_owned());
    for lane in &mut seen.lanes {
        lane.by = Some(hostile.to_owned());
    }
    app.update(Message::Snapshot(Box::new(seen)));
    for (width, height) in [(40, 10), (80, 24), (140, 40)] {
        for view in [View::Overview, lane_view("default-115-3")] {
            app.view = view;
            let shown = text(&app, width, height).join("\n");
            assert!(
                !shown.contains(['\u{202e}', '\u{1b}', '\u{200b}']),
                "{shown}"
            );
            let printed = super::plain(&app, usize::from(width));
            assert!(
                !printed.contains(['\u{202e}', '\u{1b}', '\u{200b}']),
                "{printed}"
            );
        }
    }
}

#[test]
fn like_entries_of_the_log_are_one_line_until_they_are_opened() {
    let mut app = app(PLAIN, 8);
    let entry = |seconds: i64, scope: &str, what: &str| crate::api::LogLine {
        at: Timestamp::from_millis(at().as_millis() - seconds * 1_000),
        severity: Severity::Trouble,
        scope: scope.to_owned(),
        what: what.to_owned(),
    };
    let tried = |n: i64| {
        entry(
            n * 10,
            "billing/acme -> crm",
            &format!("try {}: 503", 14 - n),
        )
    };
    let mut log: Vec<_> = (0..3).map(tried).collect();
    log.insert(1, entry(5, "lane 6", "drained by ana"));
    if let Some(seen) = &mut app.latest {
        seen.log = log;
    }
    let has =
        |app: &App, width, word: &str| text(app, width, 40).iter().any(|row| row.contains(word));
    assert!(has(&app, 140, "try 14: 503   (2 like it folded, x)"));
    assert!(has(&app, 80, "try 14: 503 (2 folded, x)"));
    assert!(!has(&app, 140, "try 13"));
    press(&mut app, KeyCode::Char('l'));
    assert!(has(&app, 80, "2 entries") && has(&app, 80, "like ones folded (x)"));
    press(&mut app, KeyCode::Char('x'));
    assert!(has(&app, 80, "4 entries") && has(&app, 80, "try 13: 503"));
    // The one that is selected stays so when it is folded into a newer one.
    press(&mut app, KeyCode::End);
    assert!(
        matches!(&app.view, View::Log(Some(line)) if line.what == "try 12: 503"),
        "{:?}",
        app.view
    );
    press(&mut app, KeyCode::Char('x'));
    assert!(
        has(&app, 80, ">!02:59:14 billing/acme -> crm") || has(&app, 80, ">! 02:59:14"),
        "{:#?}",
        text(&app, 80, 24)
    );
}

#[test]
fn control_c_ends_it_wherever_one_is() {
    let control = |c| Message::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
    for mut app in views() {
        assert_eq!(app.update(control('c')), Some(Effect::Interrupt));
    }
}

#[test]
fn lanes_that_need_somebody_come_first_where_rows_are_few_and_stay_while_one_reads() {
    let mut app = app(PLAIN, 64);
    (app.size, app.now) = ((80, 24), at());
    let needy = |lanes: &[usize]| {
        let mut seen = snapshot(64);
        for lane in &mut seen.lanes {
            lane.severity = Severity::Fine;
        }
        for lane in lanes {
            seen.lanes[*lane].severity = Severity::Trouble;
        }
        Message::Snapshot(Box::new(seen))
    };
    let first = |app: &App| {
        app.lanes()[..3]
            .iter()
            .map(|l| l.id.index)
            .collect::<Vec<_>>()
    };
    app.update(needy(&[40, 50]));
    assert_eq!(first(&app), [40, 50, 0]);
    press(&mut app, KeyCode::Down);
    app.update(needy(&[7]));
    assert_eq!(first(&app), [40, 50, 0], "somebody reads");
    app.now = at().after(Duration::from_secs(11));
    app.update(needy(&[7]));
    assert_eq!(first(&app), [7, 0, 1]);
    let rows = text(&app, 80, 24).join("\n");
    assert!(
        rows.contains("rows 1-") && rows.contains(" of 64  "),
        "{rows}"
    );
    assert_eq!(self::app(PLAIN, 8).lanes()[0].id.index, 0, "all have rows");
}

#[test]
fn the_strip_has_every_lane_at_any_count() {
    for lanes in [64, 200, 1_024] {
        let mut app = app(PLAIN, lanes);
        let mut seen = snapshot(lanes);
        seen.lanes.last_mut().unwrap().state = crate::api::LaneState::NoOwner;
        app.update(Message::Snapshot(Box::new(seen)));
        for (width, height) in [(60, 20), (80, 24), (140, 40)] {
            let rows = text(&app, width, height);
            let strip = rows.iter().find(|row| row.contains("  rows 1-")).unwrap();
            let words = strip.trim_end();
            let last = words.strip_suffix(" each)").map_or(words, |rest| {
                rest.rsplit_once(" (").map_or(rest, |(strip, _)| strip)
            });
            assert!(last.ends_with('X'), "{lanes} at {width}: {strip}");
        }
    }
}

#[test]
fn the_key_of_the_worst_goes_through_all_that_need_somebody() {
    let mut app = app(PLAIN, 8);
    let mut seen = snapshot(8);
    seen.lanes[6].severity = Severity::Trouble;
    app.update(Message::Snapshot(Box::new(seen)));
    let mut shown = Vec::new();
    for _ in 0..5 {
        press(&mut app, KeyCode::Char('!'));
        shown.push(app.view.clone());
    }
    let lane = |index: u16| lane_view(&format!("default-115-{index}"));
    let worst = stream_view("billing/acme");
    let expected = [worst.clone(), lane(5), lane(3), lane(6), worst];
    let is_same = |(shown, expected): (&View, &View)| shown.is_same(expected);
    assert!(shown.iter().zip(&expected).all(is_same), "{shown:?}");
}

#[test]
fn help_is_scrolled_where_it_has_no_room_and_any_other_key_closes_it() {
    for (width, height) in [(140, 40), (80, 24), (60, 16), (40, 10), (20, 5)] {
        let mut app = app(PLAIN, 8);
        app.size = (width, height);
        press(&mut app, KeyCode::Char('?'));
        let mut seen = text(&app, width, height).join("\n");
        for _ in 0..300 {
            if !is_help(&app) {
                break;
            }
            let before = text(&app, width, height);
            press(&mut app, KeyCode::Down);
            let now = text(&app, width, height);
            seen += &now.join("\n");
            if now == before {
                break;
            }
        }
        let bare: String = seen.split_whitespace().collect();
        for words in ["copy", "suspend", "resume", "HELD", "(you)"] {
            assert!(bare.contains(words), "{width}x{height} {words}\n{seen}");
        }
        app.mode = Mode::Help { scroll: 0 };
        press(&mut app, KeyCode::Char('x'));
        assert!(!is_help(&app));
    }
}

#[test]
fn a_command_is_whole_at_every_width() {
    let mut app = app(PLAIN, 8);
    let next = format!("hooklane why 'pay/{} end'", "x".repeat(150));
    app.latest.as_mut().unwrap().verdicts[0].next = Some(next.clone());
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    for (width, height) in [(140, 40), (80, 24), (60, 20), (40, 24)] {
        let rows = text(&app, width, height);
        assert!(bare(&rows.concat()).contains(&bare(&next)), "{rows:#?}");
    }
}

#[test]
fn figures_look_old_while_the_database_is_silent() {
    let mut app = app(PLAIN, 8);
    app.latest.as_mut().unwrap().old_since = Some(at().before(Duration::from_secs(12)));
    let rows = text(&app, 80, 24);
    assert!(
        rows[1].contains("SHOWING OLD DATA from 02:59:02Z"),
        "{}",
        rows[1]
    );
    app.theme.colour = true;
    let terminal = screen(&app, 80, 24);
    let row = rows
        .iter()
        .position(|row| row.contains(" 3 active"))
        .unwrap();
    let cell = &terminal.backend().buffer()[(4, u16::try_from(row).unwrap())];
    assert!(cell.modifier.contains(Modifier::DIM));
}

#[test]
fn what_is_under_way_is_on_the_first_screen_and_no_column_is_empty() {
    let mut app = app(PLAIN, 8);
    let operation = serde_json::json!({"what": "resize default 8 -> 16 lanes", "by": "uid 0",
        "since": at(), "done": 7, "of": 8, "unit": "lanes sealed", "waits_for": null,
        "watch": "hooklane lanes resize 16"});
    let seen = app.latest.as_mut().unwrap();
    seen.operations = vec![serde_json::from_value(operation).unwrap()];
    for (width, height) in [(140, 40), (80, 24), (60, 20)] {
        let rows = text(&app, width, height).join(" ");
        let rows = rows.split_whitespace().collect::<Vec<_>>().join(" ");
        let told = "under way: resize default 8 -> 16 lanes: 7 of 8 lanes sealed, begun by uid 0 at 02:59:14Z";
        assert!(rows.contains(told), "{rows}");
        assert!(!rows.contains(" FLY "), "nothing is delivered");
    }
    app.latest.as_mut().unwrap().lanes[0].in_flight = Some(1);
    assert!(text(&app, 160, 40).join(" ").contains(" FLY "));
}

/// A style in a few letters; none for a plain one.
fn letters(style: Style) -> String {
    let modifiers = [
        (Modifier::REVERSED, 'R'),
        (Modifier::BOLD, 'B'),
        (Modifier::UNDERLINED, 'U'),
        (Modifier::DIM, 'D'),
    ];
    let has = |(modifier, _): &&(Modifier, char)| style.add_modifier.contains(*modifier);
    let mut text: String = modifiers.iter().filter(has).map(|(_, c)| c).collect();
    for colour in [style.fg, style.bg].into_iter().flatten() {
        if colour != Color::Reset {
            text += &format!("{colour}");
        }
    }
    text
}

/// Every row, and under it the runs of its styles, where it has any: a colour or a selection that is
/// lost is seen, too.
fn painted(app: &App, width: u16, height: u16) -> String {
    let terminal = screen(app, width, height);
    let rows = terminal
        .backend()
        .buffer()
        .content
        .chunks(usize::from(width));
    let mut text = String::new();
    for row in rows {
        let symbols: String = row.iter().map(|cell| cell.symbol()).collect();
        text += &format!("{}|\n", symbols.trim_end());
        let styles: Vec<_> = row.iter().map(|cell| letters(cell.style())).collect();
        if styles.iter().any(|style| !style.is_empty()) {
            let runs = styles.chunk_by(|a, b| a == b);
            let runs: Vec<_> = runs
                .map(|run| format!("{}.{}", run.len(), run[0]))
                .collect();
            text += &format!("    {}\n", runs.join(" "));
        }
    }
    text
}

#[test]
fn every_screen_looks_as_it_did() {
    let themes = [
        ("colour", true, false),
        ("mono", false, false),
        ("ascii", false, true),
    ];
    for (name, colour, ascii) in themes {
        for (width, height) in [(140, 40), (80, 24), (60, 16), (40, 10)] {
            let screens = views().into_iter().filter(|app| app.lanes().len() < 1_000);
            let painted = screens.map(|mut app| {
                app.theme = Theme {
                    colour,
                    light: false,
                    ascii,
                };
                painted(&app, width, height) + &"=".repeat(usize::from(width)) + "\n"
            });
            let all: String = painted.collect();
            insta::assert_snapshot!(format!("{name}_{width}x{height}"), all);
        }
    }
}
