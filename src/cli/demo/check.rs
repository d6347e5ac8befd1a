//! Checks that stored and folded events are what was sent: nothing lost, doubled, changed or out of
//! order.
//!
//! Computes the expected states from the senders' records in Rust, and shares nothing with the code
//! under test but the names of fields.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::traffic::{Ledger, Sent};
use crate::domain::event::EventId;
use crate::domain::position::{Position, Seq};

/// Everything found of one stream at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its events in stream order, with their bodies.
    pub stored: Vec<(EventId, String)>,
    /// Events in the dead letters.
    pub dead: HashSet<EventId>,
    /// Position of its state.
    pub position: Position,
    /// Seq of its newest event.
    pub head: Seq,
    /// Its state.
    pub state: Value,
}

/// Everything that is wrong with one stream; empty when all is right.
pub fn troubles(ledger: &Ledger, found: &Found) -> Vec<String> {
    let mut troubles = ledger.troubles.clone();
    let stream = &ledger.stream;
    let mut say = |what: String| troubles.push(format!("{stream}: {what}"));
    let places = || found.stored.iter().zip(1i64..);
    let stored: HashMap<EventId, i64> = places().map(|((event, _), seq)| (*event, seq)).collect();
    for sent in &ledger.sent {
        let (event, seq) = (sent.event, sent.seq.0);
        match stored.get(&event) {
            None => say(format!("{event}, accepted as seq {seq}, is lost")),
            Some(at) if *at != seq => {
                say(format!("{event} was accepted as seq {seq}, and is {at}"))
            }
            Some(_) => {}
        }
    }
    if found.stored.len() != ledger.sent.len() {
        let (there, sent) = (found.stored.len(), ledger.sent.len());
        say(format!("{there} events are stored, {sent} were accepted"));
    }
    for (sent, ((event, body), seq)) in ledger.sent.iter().zip(places()) {
        if sent.event == *event && sent.content.body(stream) != *body {
            say(format!(
                "the body of {event}, seq {seq}, is not the one sent"
            ));
        }
    }
    if found.position.0 != found.head.0 || found.head.0 != found.stored.len() as i64 {
        let (position, head, events) = (found.position, found.head, found.stored.len());
        say(format!(
            "its state is at {position}, its head is {head}, it has {events} events"
        ));
    }
    let rejected = |sent: &&Sent| sent.content.amount.is_none();
    for sent in ledger.sent.iter().filter(rejected) {
        if !found.dead.contains(&sent.event) {
            let event = sent.event;
            say(format!("{event} cannot be folded, and is no dead letter"));
        }
    }
    let expected = folded(ledger, &found.dead);
    if found.state != expected {
        let state = &found.state;
        say(format!(
            "its state is {state}, what was sent folds to {expected}"
        ));
    }
    troubles
}

/// The expected state, computed by independent code.
fn folded(ledger: &Ledger, dead: &HashSet<EventId>) -> Value {
    let applied = ledger.sent.iter().filter(|s| !dead.contains(&s.event));
    let (mut count, mut total, mut order) = (0u64, 0i64, 0u64);
    for sent in applied {
        count += 1;
        total += sent.content.amount.unwrap_or(0);
        order = (order * 31 + sent.content.n) % 1_000_003;
    }
    match (count, ledger.stream.hook.as_str()) {
        (0, _) => Value::Null,
        (_, "orders") => json!({"orders": count, "total": total, "order": order}),
        _ => json!({"visits": count, "seconds": total, "order": order}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::traffic::Content;
    use super::*;

    /// A stream of five events whose third one is poisoned, and all as it should be.
    fn right() -> (Ledger, Found) {
        let mut ledger = Ledger::new("orders/c07".parse().unwrap());
        for n in 1..=5u8 {
            ledger.sent.push(Sent {
                event: EventId::from_bytes([n; 16]),
                seq: Seq(n.into()),
                content: Content {
                    n: n.into(),
                    amount: (n != 3).then_some(10 * i64::from(n)),
                },
            });
        }
        let stored = ledger.sent.iter();
        let stored = stored.map(|sent| (sent.event, sent.content.body(&ledger.stream)));
        let order = [1, 2, 4, 5].iter().fold(0, |o, n| (o * 31 + n) % 1_000_003);
        let found = Found {
            stored: stored.collect(),
            dead: HashSet::from([ledger.sent[2].event]),
            position: Position(5),
            head: Seq(5),
            state: json!({"orders": 4, "total": 120, "order": order}),
        };
        (ledger, found)
    }

    #[test]
    fn what_is_as_it_was_sent_is_no_trouble_and_every_difference_is() {
        let (ledger, found) = right();
        assert_eq!(troubles(&ledger, &found), Vec::<String>::new());
        let wrong = |what: &str, change: &dyn Fn(&mut Found)| {
            let mut found = found.clone();
            change(&mut found);
            assert!(!troubles(&ledger, &found).is_empty(), "{what}");
        };
        wrong("reordered", &|found| found.stored.swap(0, 1));
        wrong("lost at the end", &|found| drop(found.stored.pop()));
        wrong("lost in the middle", &|found| drop(found.stored.remove(1)));
        wrong("doubled", &|found| {
            found.stored.push(found.stored[4].clone())
        });
        wrong("another body", &|found| found.stored[1].1.push(' '));
        wrong("not at its head", &|found| found.position = Position(4));
        wrong("no dead letter", &|found| found.dead.clear());
        wrong("skipped, and in the state", &|found| {
            found.dead.insert(found.stored[0].0);
        });
        let other = [2, 1, 4, 5].iter().fold(0, |o, n| (o * 31 + n) % 1_000_003);
        wrong("applied out of order", &|found| {
            found.state["order"] = json!(other);
        });
        wrong("applied twice", &|found| found.state["orders"] = json!(5));
        wrong("no state", &|found| found.state = Value::Null);
    }

    #[test]
    fn what_a_sender_saw_go_wrong_is_a_trouble() {
        let (mut ledger, found) = right();
        ledger.troubles.push("event 9: refused".to_owned());
        assert_eq!(troubles(&ledger, &found), ["event 9: refused"]);
    }
}
