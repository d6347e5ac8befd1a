#![allow(clippy::unwrap_used)]
//! Tests of folding: its limits hold, and results depend only on state and events.

use std::process::Command;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::process::OVERDUE;
use super::*;
use crate::domain::cursor::Applied;
use crate::domain::event::{EventId, StreamId};
use crate::domain::filter::Filter;
use crate::domain::hook::Source;
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

pub(super) fn event(seq: i64, body: impl Into<Bytes>) -> Event {
    Event {
        stream: StreamId(1),
        seq: Seq(seq),
        id: EventId::from_bytes([u8::try_from(seq % 256).unwrap(); 16]),
        received_at: Timestamp::from_millis(1_795_402_754_231),
        key_id: None,
        dedupe_key: None,
        headers: r#"{"content-type":"application/json"}"#.into(),
        body: body.into(),
        late: None,
        is_damaged: false,
    }
}

pub(super) fn source(text: &str) -> Arc<Source> {
    Arc::new(Source {
        file: "x.js".to_owned(),
        text: text.to_owned(),
    })
}

fn script(text: &str) -> Reducer {
    Reducer::Script(source(text))
}

fn reducing(body: &str) -> Reducer {
    script(&format!(
        "export default function reduce(state, event) {{ {body} }}"
    ))
}

fn task<B: Into<Bytes>>(reducer: Reducer, bodies: impl IntoIterator<Item = B>) -> Task {
    let events = (1..).zip(bodies).map(|(seq, body)| event(seq, body).into());
    Task {
        handler: HandlerId(1),
        reducer,
        state: None,
        chain: Chain::default(),
        on_error: OnError::Hold,
        only: Filter::default(),
        events: events.collect(),
    }
}

async fn fold_all(tasks: Vec<Task>) -> Vec<Folded> {
    Folds::start(1).unwrap().fold(tasks, Duration::MAX).await
}

async fn fold(task: Task) -> Folded {
    fold_all(vec![task]).await.remove(0)
}

/// The state after one event that must fold.
async fn folded(reducer: Reducer, body: &str) -> Value {
    let folded = fold(task(reducer, [body.to_owned()])).await;
    assert_eq!(folded.failure, None);
    serde_json::from_str(&folded.state.unwrap()).unwrap()
}

/// The cause for which an event does not fold.
async fn failure(reducer: Reducer, body: &str) -> Failure {
    let folded = fold(task(reducer, [body.to_owned()])).await;
    assert_eq!((folded.passed, folded.state), (0, None));
    folded.failure.unwrap()
}

const SUM: &str = "export default function reduce(state, event) {
  // event: { id, seq, received_at, headers, body }
  state ??= { count: 0, total: 0 };
  state.count += 1;
  state.total += event.body.amount;
  return state;
}";

#[tokio::test]
async fn the_reducer_of_the_manual_counts_and_sums() {
    let amounts = (1..=10).map(|n| format!(r#"{{"amount":{n}}}"#));
    let folded = fold(task(script(SUM), amounts)).await;
    assert_eq!(folded.state.as_deref(), Some(r#"{"count":10,"total":55}"#));
    assert_eq!((folded.passed, folded.failure), (10, None));
}

#[tokio::test]
async fn an_event_has_all_that_was_received() {
    let state = folded(reducing("return event"), r#"{"a":[1,"é€🦊"]}"#).await;
    assert_eq!(
        state,
        json!({
            "id": event(1, "").id.to_string(),
            "seq": 1,
            "received_at": "2026-11-23T02:59:14.231Z",
            "headers": { "content-type": "application/json" },
            "body": { "a": [1, "é€🦊"] },
        })
    );
    assert_eq!(
        folded(reducing("return event.body"), "not JSON").await,
        "not JSON"
    );
    assert_eq!(folded(reducing("return event.body"), "").await, "");
    let bytes = task(reducing("return event.body"), [&b"\xff\x00\xfe"[..]]);
    assert_eq!(
        fold(bytes).await.state.unwrap(),
        "\"\u{fffd}\\u0000\u{fffd}\""
    );
}

#[tokio::test]
async fn a_hostile_body_is_data() {
    let reducer = || {
        reducing("state = {}; for (const k in event.body) state[k] = event.body[k]; return state")
    };
    let body = r#"{"constructor":1,"toString":2,"hasOwnProperty":3,"__defineSetter__":4}"#;
    assert_eq!(folded(reducer(), body).await.to_string(), body);
    let body = r#"{"__proto__":{"admin":true}}"#;
    let reducer = reducing("return [({}).admin, Object.keys(event.body), event.body.admin]");
    assert_eq!(
        folded(reducer, body).await,
        json!([null, ["__proto__"], null])
    );
}

#[tokio::test]
async fn time_memory_and_stack_have_limits() {
    for body in [
        "for (;;);",
        "throw { get message() { for (;;); } }",
        "return /(a+)+$/.test('a'.repeat(50) + 'b')",
        "try { for (;;); } finally { return 1; }",
    ] {
        let failure = failure(reducing(body), "").await;
        assert!(
            matches!(failure, Failure::OutOfTime(_)),
            "{body} gave {failure:?}"
        );
        assert_eq!(failure.to_string(), "still running after 50 ms in x.js:1");
    }
    for body in [
        "return 'x'.repeat(1e8)",
        "return new Array(1e8).fill(1)",
        "return new Uint8Array(1e8)",
        "let s = 'x'; for (;;) s = [s, s].join('')",
    ] {
        let failure = failure(reducing(body), "").await;
        assert!(
            matches!(failure, Failure::OutOfMemory(_)),
            "{body} gave {failure:?}"
        );
    }
    for body in [
        "const f = () => f() + 1; return f()",
        "return JSON.parse('['.repeat(1e6))",
        "let a = []; for (let i = 0; i < 1e4; i++) a = [a]; return a",
        "let a = {}; for (let i = 0; i < 1e4; i++) a = new Proxy(a, {}); return a.x",
        "return new RegExp('(?:'.repeat(1e5) + ')'.repeat(1e5)).test('')",
    ] {
        let failure = failure(reducing(body), "").await;
        assert!(
            matches!(failure, Failure::Rejected(_)),
            "{body} gave {failure:?}"
        );
        assert!(failure.to_string().contains("stack"), "{failure}");
    }
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let failure = failure(reducing("return 1"), &deep).await;
    assert!(matches!(failure, Failure::Rejected(_)), "{failure:?}");
}

#[tokio::test]
async fn a_state_has_256_kib_at_most() {
    let with = |n: usize| reducing(&format!("return 'é'.repeat({n})"));
    let fits = (STATE_MAX - 2) / 2;
    let folded = fold(task(with(fits), [""])).await;
    assert_eq!(folded.state.unwrap().len(), STATE_MAX);
    let failure = failure(with(fits + 1), "").await;
    assert!(
        failure
            .to_string()
            .starts_with("the state would have 262146 bytes")
    );
    let text = "x".repeat(STATE_MAX);
    for reducer in ["latest", "append:3"] {
        let reducer = Reducer::built_in(reducer).unwrap();
        let folded = fold(task(reducer, [text.clone()])).await;
        assert!(matches!(folded.failure, Some(Failure::Rejected(_))));
    }
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    for (body, reason) in [
        ("", "x.js: it returned nothing"),
        ("return () => 1", "it returned a function"),
        ("return class {}", "it returned a function"),
        ("return (async () => 1)()", "it returned a promise"),
        ("return Symbol('a')", "it returned a symbol"),
        ("return 1n", "it returned a BigInt"),
        ("return { a: [1n] }", "TypeError in x.js: BigInt"),
        (
            "const a = {}; a.a = a; return a",
            "TypeError in x.js: circular reference",
        ),
        ("return { toJSON() {} }", "its toJSON returned nothing"),
        (
            "(async () => { await 1; })(); return 1",
            "left something to be done later",
        ),
        ("import('fs'); return 1", "left something to be done later"),
    ] {
        let failure = failure(reducing(body), "").await;
        assert!(
            matches!(failure, Failure::Rejected(_)),
            "{body} gave {failure:?}"
        );
        assert!(
            failure.to_string().contains(reason),
            "{body} gave {failure}"
        );
    }
}

#[tokio::test]
async fn an_error_is_one_line_with_its_place() {
    for (body, reason) in [
        (
            "\n\nreturn state.x.y",
            "TypeError in x.js:3: cannot read property 'x' of undefined",
        ),
        ("throw 'no\\nsuch'", r#"x.js: it threw "no\nsuch""#),
        ("throw undefined", "x.js: it threw undefined"),
        ("throw 7", "x.js: it threw 7"),
        ("throw { code: 7 }", r#"x.js: it threw {"code":7}"#),
        (
            "throw { toJSON() { throw 1; }, toString() { throw 2; } }",
            "x.js: it threw something that cannot be shown",
        ),
        (
            "throw new Error('a\\nb\\u001b[31m')",
            "Error in x.js:1: a\\nb\\u{1b}[31m",
        ),
        ("throw new Error('\\ud800')", "Error in x.js:1: \u{fffd}"),
        (
            "class Refused extends Error { constructor(m) { super(m); this.name = 'Refused'; } }\n\nthrow new Refused('no')",
            "Refused in x.js:3: no",
        ),
        ("JSON.parse('{')", "SyntaxError in x.js:1"),
        (
            "undefined_name",
            "ReferenceError in x.js:1: undefined_name is not defined",
        ),
    ] {
        let failure = failure(reducing(body), "").await;
        assert!(
            matches!(failure, Failure::Rejected(_)),
            "{body} gave {failure:?}"
        );
        assert!(
            failure.to_string().starts_with(reason),
            "{body} gave {failure}"
        );
    }
    let long = failure(reducing("throw 'x'.repeat(1e5)"), "")
        .await
        .to_string();
    assert_eq!(long.chars().count(), MESSAGE_MAX + 1);
    // The engine throws null when it has no memory for an error, so the two cannot be told apart.
    assert!(matches!(
        failure(reducing("throw null"), "").await,
        Failure::OutOfMemory(_)
    ));
}

#[tokio::test]
async fn nothing_but_the_state_outlives_an_event() {
    let counting = "let n = 0; const seen = new Map(); const tag = (t) => t;
        export default function reduce(state, event) {
          n += 1; seen.set(event.id, 1); reduce.calls = (reduce.calls ?? 0) + 1;
          return [n, seen.size, reduce.calls, event.body];
        }";
    let folded = fold(task(script(counting), ["1", "2", "3"])).await;
    assert_eq!(folded.state.unwrap(), "[1,1,1,3]");
}

#[tokio::test]
async fn the_realm_cannot_be_changed() {
    let attempts = [
        "globalThis.x = 1",
        "Object.prototype.x = 1",
        "Array.prototype.push = 1",
        "Math.random = 1",
        "JSON.parse = 1",
        "Date.now = 1",
        "Date.prototype.x = 1",
        "Error.stackTraceLimit = 1",
        "Error.prepareStackTrace = () => 1",
        "(function* () {}).__proto__.x = 1",
        "Object = 1",
        "[].values().__proto__.next = 1",
        "(async () => {})().__proto__.x = 1",
        "Symbol.x = 1",
        "(async function* () {})().__proto__.__proto__.x = 1",
        "((t) => t)`a`.x = 1",
        "undeclared = 1",
        "((t) => t)`a`.raw.x = 1",
        "Object.prototype.toString = 1",
        "Error.prototype.name = 'x'",
        "Object.defineProperty(Map.prototype, 'x', { value: 1 })",
        "console.x = 1",
        "Object.setPrototypeOf(Array.prototype, {})",
        "Function.prototype.x = 1",
        "reduce.caller",
        "(() => 1).constructor('return 1')",
        "(async () => 1).constructor('return 1')",
        "(function* () {}).constructor('return 1')",
        "eval('1')",
        "Function('return 1')",
        "'a'.matchAll(/a/g).__proto__.x = 1",
        "Iterator.from({ next() {} }).__proto__.x = 1",
        "[].values().map((x) => x).__proto__.x = 1",
        "Reflect.getPrototypeOf(Int8Array).x = 1",
    ];
    for attempt in attempts {
        let failure = failure(reducing(&format!("'use strict'; {attempt}; return 1;")), "").await;
        assert!(
            matches!(failure, Failure::Rejected(_)),
            "{attempt} gave {failure:?}"
        );
    }
    let absent =
        "return [typeof Promise, typeof WeakRef, typeof FinalizationRegistry, typeof Atomics,
        typeof SharedArrayBuffer, typeof performance, typeof queueMicrotask, typeof setTimeout,
        typeof require, typeof process, typeof fetch].every((t) => t === 'undefined')";
    assert_eq!(folded(reducing(absent), "").await, true);
}

#[tokio::test]
async fn time_and_chance_come_from_the_event() {
    let body = "return [state, Date.now(), new Date(), `${Date()}`, Math.random(), Math.random()]";
    let once = folded(reducing(body), "").await;
    assert_eq!(once, folded(reducing(body), "").await);
    assert_eq!(once[1], 1_795_402_754_231_i64);
    assert_eq!(once[2], "2026-11-23T02:59:14.231Z");
    assert_eq!(once[3], "Mon Nov 23 2026 02:59:14 GMT+0000 (UTC)");
    assert_ne!(once[4], once[5]);
    let folded = fold(task(
        reducing("return [...(state ?? []), Math.random()]"),
        [""; 200],
    ))
    .await;
    let draws: Vec<f64> = serde_json::from_str(&folded.state.unwrap()).unwrap();
    assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
    let mean = draws.iter().sum::<f64>() / 200.0;
    assert!((0.4..0.6).contains(&mean), "{mean}");
}

const DATES: &str = "const d = new Date(2020, 0, 31, 23, 59, 58, 7);
    d.setMonth(6);
    return [d, d.getHours(), d.getDay(), d.getTimezoneOffset(), `${d}`, d.toLocaleTimeString(),
      Date.parse('2020-07-01T00:00'), Date.parse('2020-07-01'), Date.parse('2020-07-01T00:00+02:00'),
      Date.parse('Jul 1 2020'), Date.UTC(2020), new Date(NaN).getTimezoneOffset(), `${new Date('?')}`,
      new (class Day extends Date {})(2020, 0).getTime(), new Date(new Date(5)).getTime(),
      typeof Date(), Date.length, Date.name, d instanceof Date, d.constructor === Date];";

#[tokio::test]
async fn the_time_zone_is_utc_whatever_the_machine_has() {
    let state = folded(reducing(DATES), "").await;
    assert_eq!(
        state,
        json!([
            "2020-07-31T23:59:58.007Z",
            23,
            5,
            0,
            "Fri Jul 31 2020 23:59:58 GMT+0000 (UTC)",
            "23:59:58 GMT+0000 (UTC)",
            1_593_561_600_000_i64,
            1_593_561_600_000_i64,
            1_593_554_400_000_i64,
            1_593_561_600_000_i64,
            1_577_836_800_000_i64,
            null,
            "Invalid Date",
            1_577_836_800_000_i64,
            5,
            "string",
            7,
            "Date",
            true,
            true
        ])
    );
    if std::env::var_os("TZ").is_some() {
        return;
    }
    for zone in ["Asia/Tokyo", "XYZ-5:30", "PST8PDT"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["the_time_zone_is_utc", "--quiet"])
            .env("TZ", zone)
            .output();
        assert!(status.unwrap().status.success(), "{zone}");
    }
}

#[tokio::test]
async fn events_fold_to_the_same_one_by_one_and_all_at_once() {
    let bodies: Vec<String> = (0..10)
        .map(|n| format!(r#"{{"n":{n},"f":{n}.1e-7,"s":"{n}","k{n}":{{"deep":[{n}]}}}}"#))
        .collect();
    let keep = "state ??= []; if (state.length === 0) state.lost = 1;
        state.push({ ...event.body, at: event.seq, u: undefined, r: Math.random() }); return state";
    let reducers = ["latest", "merge", "append:4", "count"].map(|r| Reducer::built_in(r).unwrap());
    for reducer in reducers.into_iter().chain([reducing(keep)]) {
        let whole = task(reducer, bodies.clone());
        let at_once = fold(whole.clone()).await;
        assert_eq!((at_once.passed, &at_once.failure), (10, &None));
        let mut step = Task {
            events: vec![],
            ..whole.clone()
        };
        for event in whole.events {
            step.events = vec![event];
            let folded = fold(step.clone()).await;
            (step.state, step.chain) = (folded.state, folded.chain);
        }
        assert_eq!((step.state, step.chain), (at_once.state, at_once.chain));
    }
}

#[tokio::test]
async fn a_rejected_event_holds_or_is_skipped() {
    let picky = || {
        task(
            reducing("if (event.body === 2) throw 'two'; return [...(state ?? []), event.body]"),
            ["1", "2", "3"],
        )
    };
    let held = fold(picky()).await;
    assert_eq!((held.passed, held.state.as_deref()), (1, Some("[1]")));
    let reason = r#"x.js: it threw "two""#.to_owned();
    assert_eq!(held.failure, Some(Failure::Rejected(reason.clone())));
    assert_eq!(
        held.chain,
        Chain::default().next(event(1, "").id, Applied::Folded)
    );

    let skipped = fold(Task {
        on_error: OnError::Skip,
        ..picky()
    })
    .await;
    assert_eq!(
        (skipped.passed, skipped.state.as_deref()),
        (3, Some("[1,3]"))
    );
    assert_eq!(
        skipped.skipped,
        [DeadLetter {
            seq: Seq(2),
            reason
        }]
    );
    let chain = held.chain.next(event(2, "").id, Applied::Skipped);
    assert_eq!(skipped.chain, chain.next(event(3, "").id, Applied::Folded));

    // Running out of time may pass, so it is not skipped here.
    let slow = task(
        reducing("if (event.body === 2) for (;;); return event.body"),
        ["1", "2", "3"],
    );
    let slow = fold(Task {
        on_error: OnError::Skip,
        ..slow
    })
    .await;
    assert_eq!((slow.passed, slow.skipped.len()), (1, 0));
    assert!(matches!(slow.failure, Some(Failure::OutOfTime(_))));
}

#[tokio::test]
async fn a_spent_budget_ends_a_turn_between_events() {
    let busy = "const end = 2e4; let n = 0; while (n < end) n++; return event.seq";
    let tasks = vec![
        task(reducing(busy), [""; 300]),
        task(reducing("return event.seq"), [""; 3]),
    ];
    let folds = Folds::start(1).unwrap();
    let first = folds.fold(tasks.clone(), Duration::from_millis(20)).await;
    assert!((1..300).contains(&first[0].passed), "{}", first[0].passed);
    assert_eq!(first[0].state, Some(first[0].passed.to_string()));
    assert_eq!(
        (first[1].passed, &first[1].state, &first[1].failure),
        (0, &None, &None)
    );
    let none = folds.fold(tasks, Duration::ZERO).await;
    assert_eq!((none[0].passed, none[1].passed), (1, 0));
    assert_eq!(folds.fold(vec![], Duration::MAX).await, []);
}

#[tokio::test]
async fn a_fold_ends_after_the_event_at_which_it_is_told_to() {
    let budget = Budget {
        time: Duration::MAX,
        until: Some(Arc::new(|folded| folded >= 5)),
        of: None,
    };
    let tasks = vec![task(Reducer::Count, [""; 9])];
    let folded = Folds::start(1).unwrap().fold(tasks, budget).await;
    assert_eq!(folded[0].passed, 5);
    assert_eq!(folded[0].state.as_deref(), Some("5"));
}

#[tokio::test]
async fn a_native_call_that_does_not_come_back_costs_its_stream_and_nobody_else() {
    let stuck = "if (event.seq === 3) [].reverse.call({ length: 2 ** 53 - 1 }); return event.seq";
    let tasks = ["return 'before'", stuck, "return 'after'"];
    let tasks = tasks.map(|body| task(reducing(body), [""; 4])).to_vec();
    let folds = Folds::start(1).unwrap();
    let folded = folds.fold(tasks.clone(), Duration::MAX).await;
    assert_eq!((folded[0].passed, &folded[0].failure), (4, &None));
    assert_eq!(
        (folded[1].passed, folded[1].state.as_deref()),
        (2, Some("2"))
    );
    let why = "x.js: a call inside the engine did not come back in 250 ms; its process was ended";
    assert_eq!(folded[1].failure, Some(Failure::Stuck(why.to_owned())));
    assert_eq!((folded[2].passed, &folded[2].failure), (4, &None));
    let next = folds.fold(vec![tasks[2].clone()], Duration::MAX).await;
    assert_eq!(next[0].passed, 4, "another process took its place");
}

#[tokio::test]
async fn no_native_call_outlives_its_time() {
    for body in [
        "return Array(4e9).join('-').length",
        "return [].reverse.call({ length: 2 ** 53 - 1 })",
        "return [].fill.call({ length: 2 ** 53 - 1 }, 0)",
        "return [].indexOf.call({ length: 2 ** 53 - 1 }, 7)",
        "return 'a'.repeat(8e6).normalize('NFKD').length",
        "const s = 'ab'.repeat(1e6); return [...s.matchAll(/a/g)].length",
        "return 'a'.repeat(1e6).replaceAll('a', 'b').split('b').length",
        "const a = new Float64Array(35e5); for (;;) a.fill(1)",
    ] {
        let began = std::time::Instant::now();
        let folded = fold(task(reducing(body), [""])).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{body} took {took:?}");
        assert!(
            folded.took < Duration::from_secs(2),
            "{body}: {:?}",
            folded.took
        );
    }
}

/// The processes that fold for this one.
fn processes() -> Vec<i32> {
    let this = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
        if fields.is_some_and(|mut fields| fields.nth(1) == Some(&this)) {
            found.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    found
}

/// Runs a test of this file in a process of its own, whose children are its own.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "HOOKLANE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args([&format!("engine::reduce::tests::{test}"), "--exact"])
        .env(ALONE, "1")
        .status();
    assert!(status.unwrap().success());
    false
}

#[tokio::test]
async fn a_process_that_dies_is_replaced_and_what_it_was_asked_is_folded_all_the_same() {
    if !is_alone("a_process_that_dies_is_replaced_and_what_it_was_asked_is_folded_all_the_same") {
        return;
    }
    let busy = "let n = 0; while (n < 2e5) n++; return [...(state ?? []), event.seq]";
    let tasks: Vec<_> = (0..20).map(|_| task(reducing(busy), [""; 20])).collect();
    let folds = Folds::start(1).unwrap();
    let undisturbed = folds.fold(tasks.clone(), Duration::MAX).await;
    let killer = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            for pid in processes() {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    };
    let (disturbed, ()) = tokio::join!(folds.fold(tasks, Duration::MAX), killer);
    for (one, other) in undisturbed.iter().zip(&disturbed) {
        assert_eq!((one.passed, &one.failure), (20, &None));
        let both = [one, other].map(|folded| (folded.passed, &folded.state, &folded.chain));
        assert_eq!(both[0], both[1]);
    }
    let processes_of = |folds: Folds| {
        drop(folds);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !processes().is_empty() {
            assert!(std::time::Instant::now() < until, "{:?}", processes());
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    processes_of(folds);
}

#[tokio::test]
async fn a_handler_beyond_its_share_folds_on_the_slow_threads_only() {
    let shares = Arc::<SharedShares>::default();
    let pool = |is_slow| Pool {
        threads: 1,
        is_slow,
        shares: shares.clone(),
    };
    let [fast, slow] = [false, true].map(|is_slow| Folds::start_pool(pool(is_slow)).unwrap());
    let budget = || Budget {
        of: Some("default".parse().unwrap()),
        ..Budget::from(Duration::from_secs(5))
    };
    let other = |reducer| Task {
        handler: HandlerId(2),
        ..task(reducer, ["1"])
    };
    let tasks = vec![
        task(reducing("for (;;);"), ["1"]),
        other(reducing("return 2")),
    ];
    let folded = fast.fold(tasks.clone(), budget()).await;
    assert!(matches!(folded[0].failure, Some(Failure::OutOfTime(_))));
    assert!(shares.with(|shares, _| shares.is_slow(HandlerId(1)) && !shares.is_slow(HandlerId(2))));
    let folded = fast.fold(tasks.clone(), budget()).await;
    assert_eq!(
        (folded[0].passed, &folded[0].failure),
        (0, &None),
        "left out"
    );
    assert_eq!(folded[1].passed, 1);
    let folded = slow.fold(tasks, budget()).await;
    assert!(matches!(folded[0].failure, Some(Failure::OutOfTime(_))));
}

#[tokio::test]
async fn lanes_give_up_a_burst_of_events_without_an_end_which_fold_beside_them() {
    let shares = Arc::<SharedShares>::default();
    let pool = |threads, is_slow| Pool {
        threads,
        is_slow,
        shares: shares.clone(),
    };
    let folds = Folds::start_pool(pool(4, false)).unwrap();
    let slow = Folds::start_pool(pool(1, true)).unwrap();
    let budget = || Budget {
        of: Some("default".parse().unwrap()),
        ..Budget::from(Duration::from_millis(50))
    };
    let poison = "return Array(4e9).join('-').length";
    let turns = (0..4).map(|_| folds.fold(vec![task(reducing(poison), [""])], budget()));
    let turns: futures_util::stream::FuturesUnordered<_> = turns.collect();
    let ended: Vec<_> = futures_util::StreamExt::collect(turns).await;
    let failures: Vec<_> = ended.iter().map(|folded| &folded[0].failure).collect();
    assert_eq!(failures, [&None; 4]);
    let took: Duration = ended.iter().map(|folded| folded[0].took).sum();
    assert_eq!(took, OVERDUE, "one thread waits, and not to the end");
    assert!(shares.with(|shares, _| shares.is_slow(HandlerId(1))));
    let beside = slow.fold(vec![task(reducing(poison), [""])], budget());
    let failure = beside.await.remove(0).failure;
    assert!(matches!(failure, Some(Failure::Stuck(_))), "{failure:?}");
}

#[tokio::test]
async fn what_one_script_left_behind_does_not_count_for_another() {
    let folds = Folds::start(1).unwrap();
    let litter = reducing(
        "for (let i = 0; i < 9; i++) { const a = { s: 'x'.repeat(3e6) }; a.a = a; } return 1",
    );
    let needy = reducing("return 'y'.repeat(2e7).length");
    for _ in 0..3 {
        let tasks = vec![task(litter.clone(), [""]), task(needy.clone(), [""])];
        for folded in folds.fold(tasks, Duration::MAX).await {
            assert_eq!(folded.failure, None);
        }
    }
}

#[tokio::test]
async fn many_turns_fold_side_by_side() {
    let folds = Folds::start(2).unwrap();
    let turns = (0..50).map(|_| {
        folds.fold(
            vec![task(script(SUM), [r#"{"amount":2}"#; 20])],
            Duration::MAX,
        )
    });
    for folded in futures_util::future::join_all(turns).await {
        assert_eq!(
            folded[0].state.as_deref(),
            Some(r#"{"count":20,"total":40}"#)
        );
    }
}

// ---- built-in reducers

async fn states(reducer: &str, bodies: &[&str]) -> Option<String> {
    let folded = fold(task(
        Reducer::built_in(reducer).unwrap(),
        bodies.iter().map(|body| (*body).to_owned()),
    ))
    .await;
    assert_eq!(folded.failure, None);
    folded.state
}

#[tokio::test]
async fn built_in_reducers_do_what_their_names_say() {
    let huge = "{\"n\": 123456789012345678901234567890.10}";
    assert_eq!(states("latest", &["1", huge]).await.unwrap(), huge);
    assert_eq!(
        states("latest", &["a \"b\""]).await.unwrap(),
        r#""a \"b\"""#
    );
    assert_eq!(
        states("append:2", &["1", " {\"a\": 1}\n", "x"])
            .await
            .unwrap(),
        r#"[{"a": 1},"x"]"#
    );
    assert_eq!(states("count", &["1", "", "{"]).await.unwrap(), "3");
    assert_eq!(
        states(
            "merge",
            &[r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":null},"d":0.1}"#]
        )
        .await
        .unwrap(),
        r#"{"a":{"c":2},"d":0.1}"#
    );
    assert_eq!(
        states(
            "patch",
            &[
                r#"[{"op":"add","path":"/a","value":[1]}]"#,
                r#"[{"op":"add","path":"/a/-","value":18446744073709551615}]"#
            ]
        )
        .await
        .unwrap(),
        r#"{"a":[1,18446744073709551615]}"#
    );
    assert_eq!(states("count", &[]).await, None);
    assert_eq!(states("append:1", &[]).await, None);
}

#[tokio::test]
async fn a_state_of_another_reducer_is_refused() {
    for (reducer, state) in [("count", "{}"), ("append:2", "{}"), ("merge", "?")] {
        let reducer = Reducer::built_in(reducer).unwrap();
        let of_another = Task {
            state: Some(state.to_owned()),
            ..task(reducer, ["1"])
        };
        let folded = fold(of_another).await;
        assert!(matches!(folded.failure, Some(Failure::Rejected(_))));
        assert_eq!(folded.state.as_deref(), Some(state));
    }
}

#[tokio::test]
async fn a_patch_that_fails_or_swells_changes_nothing() {
    let wide = format!(
        r#"[{{"op":"add","path":"/a","value":"{}"}}]"#,
        "x".repeat(1000)
    );
    let copies: Vec<String> = (0..40)
        .map(|n| format!(r#"{{"op":"copy","from":"","path":"/c{n}"}}"#))
        .collect();
    for bad in [
        r#"[{"op":"add","path":"/b","value":1},{"op":"remove","path":"/none"}]"#.to_owned(),
        r#"[{"op":"add","path":"/b","value":1},{"op":"test","path":"/a","value":1}]"#.to_owned(),
        r#"[{"op":"remove","path":""}]"#.to_owned(),
        r#"[{"op":"move","from":"","path":"/a"}]"#.to_owned(),
        "{}".to_owned(),
        "not JSON".to_owned(),
        format!("[{}]", copies.join(",")),
        format!(
            r#"[{{"op":"add","path":"/b","value":"{}"}}]"#,
            "x".repeat(STATE_MAX)
        ),
    ] {
        let folded = fold(task(
            Reducer::Patch,
            [wide.clone(), bad.clone(), wide.clone()],
        ))
        .await;
        assert_eq!(folded.passed, 1, "{bad:.200}");
        assert!(
            matches!(folded.failure, Some(Failure::Rejected(_))),
            "{bad:.200}"
        );
        assert_eq!(
            folded.state.unwrap(),
            format!(r#"{{"a":"{}"}}"#, "x".repeat(1000))
        );
    }
    let slow = vec![r#"{"op":"add","path":"/0","value":1}"#; 30_000].join(",");
    let slow = format!(r#"[{{"op":"replace","path":"","value":[]}},{slow}]"#);
    let failure = fold(task(Reducer::Patch, [slow])).await.failure.unwrap();
    assert!(matches!(failure, Failure::OutOfTime(_)), "{failure}");
}

#[tokio::test]
async fn deep_bodies_are_refused_or_kept_and_never_overflow() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (reducer, passes) in [
        ("latest", 1),
        ("append:2", 1),
        ("merge", 1),
        ("patch", 0),
        ("count", 1),
    ] {
        let folded = fold(task(Reducer::built_in(reducer).unwrap(), [deep.clone()])).await;
        assert_eq!(folded.passed, passes, "{reducer}");
    }
}

/// Bodies that a parser into numbers and texts changes or refuses.
const AWKWARD: [&str; 6] = [
    "123456789012345678901234567890",
    "1E2",
    "0.1234567890123456789012",
    "1e400",
    r#""\ud800""#,
    r#""caf\u00e9""#,
];

#[tokio::test]
async fn merge_and_patch_leave_what_they_do_not_touch_as_it_was_sent() {
    let deep = format!("{}1{}", r#"{"d":["#.repeat(1000), "]}".repeat(1000));
    for value in AWKWARD.into_iter().chain([deep.as_str(), "-0", "1.50"]) {
        let first = format!(r#"{{ "\ud800k": {value}, "list": [ {value} ], "gone": 1 }}"#);
        let left = format!(r#"{{"\ud800k":{value},"list":[{value}],"new":{value}}}"#);
        let merge = format!(r#"{{"gone":null,"new":{value}}}"#);
        assert_eq!(states("merge", &[&first, &merge]).await.unwrap(), left);
        let set = format!(r#"[{{"op":"add","path":"","value":{first}}}]"#);
        let change = format!(
            r#"[{{"op":"test","path":"/list/0","value":{value}}},{{"op":"remove","path":"/gone"}},
                {{"op":"copy","from":"/\ud800k","path":"/new"}}]"#
        );
        assert_eq!(states("patch", &[&set, &change]).await.unwrap(), left);
    }
}

#[tokio::test]
async fn every_reducer_takes_a_byte_order_mark_and_the_same_bodies() {
    for body in AWKWARD.into_iter().chain([" {\"a\": 1}\n"]) {
        let marked = format!("\u{feff}{body}");
        for reducer in ["latest", "merge", "append:2"] {
            let of = |body: &str| task(Reducer::built_in(reducer).unwrap(), [body.to_owned()]);
            let (plain, marked) = (fold(of(body)).await, fold(of(&marked)).await);
            assert_eq!(plain.failure, None, "{reducer} {body}");
            assert_eq!(plain.state, marked.state, "{reducer} {body}");
        }
        let kind = "return typeof event.body";
        assert_eq!(
            folded(reducing(kind), body).await,
            folded(reducing(kind), &marked).await
        );
    }
    for (reducer, state) in [
        ("latest", "\"caf\u{fffd}\""),
        ("append:1", "[\"caf\u{fffd}\"]"),
    ] {
        let latin = task(Reducer::built_in(reducer).unwrap(), [&b"caf\xe9"[..]]);
        assert_eq!(fold(latin).await.state.unwrap(), state);
    }
    let latin = task(reducing("return event.body"), [&b"{\"a\":\"caf\xe9\"}"[..]]);
    assert_eq!(
        fold(latin).await.state.unwrap(),
        "\"{\\\"a\\\":\\\"caf\u{fffd}\\\"}\""
    );
    let latin = task(Reducer::Merge, [&b"{\"a\":\"caf\xe9\"}"[..]]);
    let why = fold(latin).await.failure.unwrap().to_string();
    assert_eq!(why, "the body is not JSON: byte 10 is not UTF-8");
}

#[tokio::test]
async fn a_test_compares_numbers_by_value_and_texts_by_meaning() {
    for (left, right, passes) in [
        ("1", "1.0", 1),
        ("1e2", "100", 1),
        ("9007199254740993", "9007199254740992", 0),
        (r#""\u00e9""#, "\"é\"", 1),
        (r#""1""#, "1", 0),
        (r#"{"a":1,"b":[2]}"#, r#"{"b":[2.0],"\u0061":1}"#, 1),
        ("[1,2]", "[2,1]", 0),
        ("null", "false", 0),
    ] {
        let body = format!(
            r#"[{{"op":"add","path":"/v","value":{left}}},{{"op":"test","path":"/v","value":{right}}}]"#
        );
        assert_eq!(
            fold(task(Reducer::Patch, [body])).await.passed,
            passes,
            "{left} {right}"
        );
    }
}

#[tokio::test]
async fn what_would_reorder_or_hide_in_a_reason_is_visible_there() {
    let failure = failure(reducing("throw new Error('a\\u202eb\\u200bc\\n')"), "").await;
    assert_eq!(
        failure.to_string(),
        r"Error in x.js:1: a\u{202e}b\u{200b}c\n"
    );
    let path = "[{\"op\":\"remove\",\"path\":\"/\u{2066}x\"}]";
    let body = task(Reducer::Patch, [path]);
    let why = fold(body).await.failure.unwrap().to_string();
    assert!(
        why.contains("u{2066}") && !why.contains('\u{2066}'),
        "{why}"
    );
}

#[tokio::test]
async fn an_event_has_its_query_and_its_body_as_it_was_sent() {
    let with = |body: &[u8], headers: &str, code: &str| {
        let mut task = task(reducing(code), [body.to_vec()]);
        Arc::get_mut(&mut task.events[0]).unwrap().headers = headers.into();
        async move { fold(task).await.state.unwrap() }
    };
    let all = "return [event.query, event.headers, event.raw, Object.keys(event).includes('raw')]";
    assert_eq!(
        with(
            b" {\"id\":9007199254740993}",
            r#"{":query":"a=1&b=%20","x-a":"1"}"#,
            all
        )
        .await,
        r#"["a=1&b=%20",{"x-a":"1"}," {\"id\":9007199254740993}",false]"#
    );
    assert_eq!(with(b"", "{}", all).await, r#"["",{},"",false]"#);
    let bytes = "return [event.raw instanceof Uint8Array, Array.from(event.raw), event.body]";
    assert_eq!(
        with(b"\xffa", "{}", bytes).await,
        "[true,[255,97],\"\u{fffd}a\"]"
    );
}

#[tokio::test]
async fn texts_bytes_base_64_and_forms_are_as_the_standards_say() {
    let body = "
        const bytes = (text) => Array.from(new TextEncoder().encode(text));
        const text = (...bytes) => new TextDecoder().decode(Uint8Array.from(bytes));
        const fails = (what) => { try { what(); return 'no'; } catch (error) { return error.name; } };
        const form = new URLSearchParams('?a=1&b=%C3%A9+x&a=2&%zz=&&c');
        const made = new URLSearchParams({ 'k y': 'é&=', z: '~*' });
        made.append('z', '2'); made.set('k y', '1'); made.delete('z', '2');
        return [
            btoa('h\u{e9}llo'), atob('aOlsbG8='), atob(' aOls bG8 '), btoa(''), fails(() => btoa('€')),
            fails(() => atob('a')), fails(() => atob('a=a=')), fails(() => atob('ab=')),
            bytes('é€🦊\\ud800'), text(0xc3, 0xa9, 0xf0, 0x9f, 0xa6, 0x8a), text(0xef, 0xbb, 0xbf, 0x61),
            text(0xf0, 0x9f, 0x41, 0xed, 0xa0, 0x80, 0xc0), fails(() => new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.of(255))),
            fails(() => new TextDecoder('latin1')),
            form.get('a'), form.getAll('a'), form.get('b'), form.get('none'), form.has('c', ''), form.size, `${form}`,
            `${made}`, [...made.keys()], Object.fromEntries(new URLSearchParams([['x', '1'], ['y', 2]])),
            fails(() => { URLSearchParams.prototype.get = 1; }), fails(() => { globalThis.atob = 1; }),
        ];";
    assert_eq!(
        folded(reducing(body), "").await,
        json!([
            "aOlsbG8=", "h\u{e9}llo", "h\u{e9}llo", "", "InvalidCharacterError",
            "InvalidCharacterError", "InvalidCharacterError", "InvalidCharacterError",
            [0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0xa6, 0x8a, 0xef, 0xbf, 0xbd], "é🦊", "a",
            "\u{fffd}A\u{fffd}\u{fffd}\u{fffd}\u{fffd}", "TypeError",
            "RangeError",
            "1", ["1", "2"], "é x", null, true, 5, "a=1&b=%C3%A9+x&a=2&%25zz=&c=",
            "k+y=1&z=%7E*", ["k y", "z"], {"x": "1", "y": "2"},
            "TypeError", "TypeError",
        ])
    );
}

/// JSON whose numbers and strings are texts here, as they are written, and nothing else.
fn any_written() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => prop::sample::select(AWKWARD.to_vec()),
        2 => Just("null"),
        1 => Just("true"),
        1 => Just("1.0"),
    ];
    leaf.prop_map(Value::from)
        .prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c~/]{1,2}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
}

/// The JSON text, with `space` where there may be some.
fn written(value: &Value, space: &str) -> String {
    let parts = |parts: Vec<String>| parts.join(&format!(",{space}"));
    match value {
        Value::Array(items) => {
            let items = items.iter().map(|item| written(item, space)).collect();
            format!("[{space}{}]", parts(items))
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, _)| {
                format!("{}{space}:{}", json!(name), written(value, space))
            };
            format!("{{{}{space}}}", parts(members.iter().map(member).collect()))
        }
        leaf => leaf.as_str().unwrap().to_owned(),
    }
}

/// The JSON text with the members of each object sorted by name.
fn sorted(text: &str) -> String {
    type Raw = Box<serde_json::value::RawValue>;
    if let Ok(members) = serde_json::from_str::<std::collections::BTreeMap<String, Raw>>(text) {
        let member =
            |(name, value): (String, Raw)| format!("{}:{}", json!(name), sorted(value.get()));
        let members: Vec<String> = members.into_iter().map(member).collect();
        return format!("{{{}}}", members.join(","));
    }
    match serde_json::from_str::<Vec<Raw>>(text) {
        Ok(items) => {
            let items: Vec<String> = items.iter().map(|item| sorted(item.get())).collect();
            format!("[{}]", items.join(","))
        }
        Err(_) => text.to_owned(),
    }
}

/// The pseudo-code of RFC 7396, over texts as they are written.
fn merged_as_written(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch;
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => serde_json::Map::new(),
    };
    for (name, value) in patch {
        if value == "null" {
            target.shift_remove(&name);
        } else {
            let before = target.get(&name).cloned().unwrap_or_default();
            target.insert(name, merged_as_written(before, value));
        }
    }
    Value::Object(target)
}

/// The pseudo-code of RFC 7396.
fn merged(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch;
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => serde_json::Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            let before = target.get(&name).cloned().unwrap_or_default();
            target.insert(name, merged(before, value));
        }
    }
    Value::Object(target)
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| serde_json::Number::from_f64(f).map_or(Value::Null, Value::from)),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c]", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Puts and removals of members, as a patch and as what they do to a plain map.
fn any_changes() -> impl Strategy<Value = Vec<(String, Option<i64>)>> {
    prop::collection::vec(("[a-c~/]", any::<Option<i64>>()), 0..12)
}

fn run(task: Task) -> Folded {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(fold(task))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn built_in_reducers_take_any_bytes(bodies in prop::collection::vec(any::<Vec<u8>>(), 0..5)) {
        for reducer in ["latest", "merge", "patch", "append:3", "count"] {
            let skipping = Task { on_error: OnError::Skip, ..task(Reducer::built_in(reducer).unwrap(), bodies.clone()) };
            let folded = run(skipping);
            prop_assert_eq!(folded.passed, bodies.len());
            prop_assert!(folded.skipped.iter().all(|letter| !letter.reason.contains("panicked")));
            if let Some(state) = folded.state {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&state).is_ok());
            }
        }
    }

    #[test]
    fn merging_is_what_the_rfc_says(bodies in prop::collection::vec(any_json(), 1..5)) {
        let folded = run(task(Reducer::Merge, bodies.iter().map(Value::to_string)));
        let expected = bodies.into_iter().fold(Value::Null, merged);
        prop_assert_eq!(serde_json::from_str::<Value>(&folded.state.unwrap()).unwrap(), expected);
    }

    #[test]
    fn merging_changes_no_byte_of_what_it_does_not_touch(
        bodies in prop::collection::vec(any_written(), 1..5), space in "[ \n\t]{0,2}",
    ) {
        let folded = run(task(Reducer::Merge, bodies.iter().map(|body| written(body, &space))));
        let expected = bodies.into_iter().fold(Value::from("null"), merged_as_written);
        prop_assert_eq!(folded.state.unwrap(), written(&expected, ""));
    }

    #[test]
    fn patching_is_what_a_plain_implementation_does(
        document in any_written(), other in any_written(),
        steps in prop::collection::vec((0..6_usize, "(/[a-c0-2-]){0,3}", "(/[a-c0-2-]){0,3}"), 1..6),
    ) {
        let words = ["add", "remove", "replace", "move", "copy", "test"];
        let operations = |value: &dyn Fn() -> Value| -> Vec<Value> {
            steps.iter().map(|(word, path, from)| {
                json!({ "op": words[*word], "path": path, "from": from, "value": value() })
            }).collect()
        };
        let mut expected = document.clone();
        let mut passed = 0;
        for operation in operations(&|| other.clone()) {
            let patch: json_patch::Patch = serde_json::from_value(json!([operation])).unwrap();
            // On a copy, as this one does not undo a move that fails half-way.
            let mut after = expected.clone();
            let is_whole = operation["op"] == "remove" && operation["path"] == ""
                || operation["op"] == "move" && operation["from"] == "";
            if is_whole || json_patch::patch(&mut after, &patch).is_err() {
                break;
            }
            expected = after;
            passed += 1;
        }
        let value = "\"the other value\"";
        let first = format!(r#"[{{"op":"add","path":"","value":{}}}]"#, written(&document, " "));
        let rest = operations(&|| json!("the other value"));
        let rest = rest.iter().map(|one| format!("[{one}]").replace(value, &written(&other, "")));
        let folded = run(task(Reducer::Patch, [first].into_iter().chain(rest)));
        prop_assert_eq!(folded.passed, passed + 1, "{:?}", folded.failure);
        prop_assert_eq!(sorted(&folded.state.unwrap()), sorted(&written(&expected, "")));
    }

    #[test]
    fn patching_a_map_is_changing_a_map(changes in any_changes()) {
        let mut expected = std::collections::BTreeMap::new();
        let bodies: Vec<String> = changes.iter().map(|(name, value)| {
            let path = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let operation = match value {
                Some(value) => json!({ "op": "add", "path": path, "value": value }),
                None => json!({ "op": "remove", "path": path }),
            };
            match value {
                Some(value) => drop(expected.insert(name.clone(), *value)),
                None => drop(expected.remove(name)),
            }
            json!([operation]).to_string()
        }).collect();
        let folded = run(Task { on_error: OnError::Skip, ..task(Reducer::Patch, bodies) });
        let state: Value = serde_json::from_str(folded.state.as_deref().unwrap_or("{}")).unwrap();
        prop_assert_eq!(state, json!(expected));
    }
}

/// `cargo test --release --lib speed_of -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn speed_of_folding() {
    let filler: String = "x".repeat(60);
    let body = format!(
        r#"{{"id":"evt_1NG8Du2eZvKYlo2CUI79vXWy","type":"payment_intent.succeeded","created":1686089970,"livemode":false,"amount":2000,"currency":"usd","customer":"cus_NffrFeUfNV2Hib","data":{{"object":{{"id":"pi_3","status":"succeeded","lines":[1,2,3],"description":"{filler}","metadata":{{"order":"6735","note":"{filler}{filler}"}}}}}},"request":{{"id":"req_1","idempotency_key":"{filler}"}}}}"#
    );
    let headers: Arc<str> = r#"{"host":"127.0.0.1:8420","user-agent":"Stripe/1.0 (+https://stripe.com/docs/webhooks)","content-type":"application/json; charset=utf-8","content-length":"512","accept":"*/*","stripe-signature":"t=1686089970,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd"}"#.into();
    println!("body {} bytes", body.len());
    let small = "state ??= { count: 0, total: 0 }; state.count += 1; state.total += event.body.amount; state.last = event.id; return state;";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folds = Folds::start(1).unwrap();
    let reducers = [
        reducing("return 1"),
        reducing("return event.body.amount"),
        reducing(small),
        reducing("return event"),
        script(&format!(
            "const table = {{ a: 1, b: 2 }};\nclass Money {{ constructor(n) {{ this.n = n; }} }}\nfunction add(a, b) {{ return new Money(a.n + b.n); }}\n/* {filler} */\nexport default function reduce(state, event) {{ {small} }}"
        )),
    ];
    let built = ["latest", "merge", "append:10", "count"].map(|r| Reducer::built_in(r).unwrap());
    for reducer in reducers.into_iter().chain(built) {
        for per_task in [1, 64] {
            let tasks: Vec<Task> = (0..256 / per_task)
                .map(|_| {
                    let mut task = task(reducer.clone(), vec![body.clone(); per_task]);
                    for event in &mut task.events {
                        Arc::get_mut(event).unwrap().headers = headers.clone();
                    }
                    task
                })
                .collect();
            let mut best = Duration::MAX;
            for _ in 0..60 {
                let tasks = tasks.clone();
                let started = std::time::Instant::now();
                let folded = runtime.block_on(folds.fold(tasks, Duration::MAX));
                best = best.min(started.elapsed());
                assert!(folded.iter().all(|f| f.failure.is_none()));
            }
            let text = match &reducer {
                Reducer::Script(s) => s.text.chars().skip(46).take(60).collect(),
                other => other.to_string(),
            };
            println!(
                "{:6} ns an event, {per_task} a task: {text}",
                best.as_nanos() / 256
            );
        }
    }
    let mut scripts = script::Scripts::default();
    let started = std::time::Instant::now();
    scripts.reduce(&source(SUM), None, &event(1, "{}")).unwrap();
    println!("{:?} for the first script", started.elapsed());
    let started = std::time::Instant::now();
    for n in 0..1000 {
        scripts
            .reduce(&source(&format!("{SUM}//{n}")), None, &event(1, "{}"))
            .unwrap();
    }
    println!("{:?} for each of 1,000 more", started.elapsed() / 1000);
}
