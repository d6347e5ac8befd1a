//! The lane against chance: hints, turns and moments in random order, and beside them a table of
//! heads, positions and conditions as the database would keep them. Whatever the order: one turn at a
//! time for a cursor, nobody goes twice before one who waits, and in the end nobody was forgotten.
//!
//! `HOOKLANE_SEED` repeats one sequence.

use std::collections::{BTreeMap, BTreeSet};

use hooklane::domain::cursor::CursorId;
use hooklane::domain::event::StreamId;
use hooklane::domain::hook::HandlerId;
use hooklane::domain::time::Timestamp;
use hooklane::engine::lane::{Lane, Outcome, Parked, Rest};
use hooklane::lanes::{self, Backlog, Hint, Queue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SEEDS: u64 = 12_000;
const STEPS: usize = 60;
const CURSORS: i64 = 5;

/// Turns after which a lane that nobody disturbs must have come to its end.
const TURNS_TO_REST_MAX: usize = 1_000;

#[test]
fn no_order_of_hints_turns_and_moments_forgets_a_cursor_or_lets_one_go_twice_before_another() {
    for seed in crate::seeds::seeds(SEEDS) {
        let failed = std::panic::catch_unwind(|| World::new(seed).live()).is_err();
        assert!(!failed, "repeat with HOOKLANE_SEED={seed}");
    }
}

/// A cursor as the database would keep it.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    head: u64,
    position: u64,
    condition: Condition,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Condition {
    #[default]
    Flowing,
    Waiting(Timestamp),
    Held,
}

struct World {
    rng: StdRng,
    now: i64,
    lane: Lane,
    hints: Queue,
    rows: BTreeMap<CursorId, Row>,
    /// Cursors in a turn, with what it has read, once it has.
    running: BTreeMap<CursorId, Option<Row>>,
    /// Cursors that were set aside and not called back since.
    aside: BTreeSet<CursorId>,
    /// Cursors that surely wait for a turn, and who went before them since they do.
    ready: BTreeMap<CursorId, BTreeSet<CursorId>>,
    /// Those whose next try comes, or has come: they wait longer than others, and every fourth time they
    /// go before them.
    repeats: BTreeSet<CursorId>,
    /// True if turns succeed.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let cursor = |stream| CursorId {
            stream: StreamId(stream),
            handler: HandlerId(1),
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            lane: Lane::default(),
            hints: Queue::default(),
            rows: (1..=CURSORS).map(|s| (cursor(s), Row::default())).collect(),
            running: BTreeMap::new(),
            aside: BTreeSet::new(),
            ready: BTreeMap::new(),
            repeats: BTreeSet::new(),
            calm: false,
        }
    }

    fn live(mut self) {
        for _ in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..25 => self.store_events(),
                25..45 => self.deliver_hints(),
                45..63 => {
                    self.begin_turns();
                }
                63..72 => self.read(),
                72..90 => self.end_a_turn(),
                90..94 => self.release(),
                94..96 => self.sweep(),
                _ => self.now += self.rng.random_range(0..50),
            }
        }
        self.come_to_rest();
    }

    fn any(&mut self) -> CursorId {
        let nth = self.rng.random_range(0..self.rows.len());
        *self.rows.keys().nth(nth).unwrap()
    }

    fn any_running(&mut self) -> Option<CursorId> {
        let nth = self.rng.random_range(0..self.running.len().max(1));
        self.running.keys().nth(nth).copied()
    }

    fn store_events(&mut self) {
        let (cursor, events) = (self.any(), self.rng.random_range(1..4));
        self.rows.get_mut(&cursor).unwrap().head += events;
        self.hint(cursor, Backlog::More(events), lanes::Recheck::No);
    }

    fn release(&mut self) {
        let cursor = self.any();
        self.rows.get_mut(&cursor).unwrap().condition = Condition::Flowing;
        self.hint(cursor, Backlog::Total(1), lanes::Recheck::Yes);
    }

    fn sweep(&mut self) {
        for (cursor, row) in self.rows.clone() {
            let behind = Backlog::Total(row.head - row.position);
            self.hint(cursor, behind, lanes::Recheck::No);
        }
    }

    fn hint(&self, cursor: CursorId, behind: Backlog, recheck: lanes::Recheck) {
        let oldest = Timestamp::from_millis(self.now);
        let pushed = self.hints.push(vec![Hint {
            cursor,
            oldest,
            newest: oldest,
            backlog: behind,
            recheck,
        }]);
        assert!(pushed.is_ok(), "the lane runs here");
    }

    fn deliver_hints(&mut self) {
        let hints = self.hints.take();
        for Hint {
            cursor, recheck, ..
        } in &hints
        {
            if *recheck == lanes::Recheck::Yes {
                self.aside.remove(cursor);
            }
            if !self.running.contains_key(cursor) && !self.aside.contains(cursor) {
                self.ready.entry(*cursor).or_default();
            }
        }
        self.lane.hinted(hints);
    }

    /// Says whether there were any.
    fn begin_turns(&mut self) -> bool {
        let max = self.rng.random_range(1..4);
        let now = Timestamp::from_millis(self.now);
        let batch = self.lane.next_batch(max, now, |_| false);
        assert!(batch.len() <= max);
        let repeats = self.repeats.clone();
        for cursor in &batch {
            let before = self.running.insert(*cursor, None);
            assert!(before.is_none(), "{cursor:?} has two turns at once");
            self.aside.remove(cursor);
            self.ready.remove(cursor);
            self.repeats.remove(cursor);
        }
        for (waits, went) in &mut self.ready {
            for cursor in &batch {
                let is_repeat = repeats.contains(waits) || repeats.contains(cursor);
                assert!(
                    went.insert(*cursor) || is_repeat,
                    "{cursor:?} twice before {waits:?}"
                );
            }
        }
        !batch.is_empty()
    }

    /// A turn reads some time after it took the hint; later hints may or may not be in what it read.
    fn read(&mut self) {
        if let Some(cursor) = self.any_running() {
            let read = self.running.get_mut(&cursor).unwrap();
            read.get_or_insert(self.rows[&cursor]);
        }
    }

    fn end_a_turn(&mut self) {
        let Some(cursor) = self.any_running() else {
            return;
        };
        let read = self.running.remove(&cursor).unwrap();
        let outcome = self.turn(cursor, read.unwrap_or(self.rows[&cursor]));
        self.lane.turned(cursor, outcome);
        if let Outcome::Parked(Parked::Waiting(_), _) = outcome {
            self.repeats.insert(cursor);
        }
        match outcome {
            Outcome::Done => {}
            Outcome::More(_) => drop(self.ready.insert(cursor, BTreeSet::new())),
            Outcome::Parked(..) => drop(self.aside.insert(cursor)),
        }
    }

    /// Moves a row from where it was read, and says what the lane is told.
    fn turn(&mut self, cursor: CursorId, read: Row) -> Outcome {
        let rest = |passed: u64| Rest {
            oldest: Timestamp::default(),
            events: read.head - read.position - passed,
        };
        match read.condition {
            Condition::Held => return Outcome::Parked(Parked::Held, rest(0)),
            Condition::Waiting(at) if at.as_millis() > self.now => {
                return Outcome::Parked(Parked::Waiting(at), rest(0));
            }
            _ => {}
        }
        let due = read.head - read.position;
        let row = self.rows.get_mut(&cursor).unwrap();
        row.condition = Condition::Flowing;
        let at = Timestamp::from_millis(self.now + self.rng.random_range(1..40));
        let ends = self.rng.random_range(0..8);
        if self.calm || due == 0 || ends > 3 {
            row.position = read.head;
            return Outcome::Done;
        }
        let passed = self.rng.random_range(0..due);
        row.position = read.position + passed;
        match ends {
            0 => Outcome::More(rest(passed)),
            1 => Outcome::Parked(Parked::Gathering(at), rest(passed)),
            2 => {
                row.condition = Condition::Waiting(at);
                Outcome::Parked(Parked::Waiting(at), rest(passed))
            }
            _ => {
                row.condition = Condition::Held;
                Outcome::Parked(Parked::Held, rest(passed))
            }
        }
    }

    /// Nothing new comes, every turn goes well, time passes.
    fn come_to_rest(&mut self) {
        self.calm = true;
        for _ in 0..TURNS_TO_REST_MAX {
            while !self.running.is_empty() {
                self.end_a_turn();
            }
            self.deliver_hints();
            if !self.begin_turns() {
                match self.lane.next_due() {
                    Some(due) => self.now = self.now.max(due.as_millis()),
                    None => return self.nobody_is_forgotten(),
                }
            }
        }
        panic!("the lane does not come to rest");
    }

    fn nobody_is_forgotten(&self) {
        let mut held = 0;
        for (cursor, row) in &self.rows {
            if row.condition == Condition::Held {
                held += 1;
                continue;
            }
            assert_eq!(row.position, row.head, "{cursor:?} was forgotten: {row:?}");
        }
        let survey = self.lane.survey();
        assert_eq!((survey.cursors, survey.held), (held, held), "{survey:?}");
    }
}
