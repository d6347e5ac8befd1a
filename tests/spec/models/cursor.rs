//! One reduce cursor: turns of an owner and of a former one that wakes up late, an operator's skip, a rebuild
//! with new code that swaps its result in, and a database crash that loses the newest asynchronous advances.

use stateright::{Model, Property};

use super::explore;

const HEAD: usize = 4;

/// By which code an event was applied; 0 for one that was skipped.
type State = Vec<u8>;
/// Era, position and state.
type Row = (u8, usize, State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    PositionOnly,
    SameEra,
    SwapBehind,
    Blind,
}

struct Cursor(Mutant);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    row: Row,
    /// The rows since the last durable one, newest last.
    log: Vec<Row>,
    /// Rows that the owner and the late worker have read, and the code with which they fold.
    turns: [Option<(Row, u8)>; 2],
    code: u8,
    shadow: Option<State>,
    swapped: bool,
    may_skip: bool,
    may_crash: bool,
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Read(usize),
    End(usize),
    Skip,
    Deploy,
    Fold,
    Swap,
    Crash,
}

impl World {
    fn write(&mut self, new: Row, is_durable: bool) {
        self.broken = new.2.len() != new.1
            || (self.swapped && new.2.contains(&1))
            || (new.0 == self.row.0 && new.1 < self.row.1);
        let old = std::mem::replace(&mut self.row, new);
        match is_durable {
            true => self.log.clear(),
            false => self.log.push(old),
        }
    }
}

fn and(mut state: State, code: u8) -> State {
    state.push(code);
    state
}

impl Model for Cursor {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            row: (1, 0, Vec::new()),
            log: Vec::new(),
            turns: [None, None],
            code: 1,
            shadow: None,
            swapped: false,
            may_skip: true,
            may_crash: true,
            broken: false,
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if world.broken {
            return;
        }
        for who in 0..2 {
            match &world.turns[who] {
                None if world.row.1 < HEAD => acts.push(Act::Read(who)),
                None => {}
                Some(_) => acts.push(Act::End(who)),
            }
        }
        if world.may_skip && world.row.1 < HEAD {
            acts.push(Act::Skip);
        }
        if world.code == 1 {
            acts.push(Act::Deploy);
        }
        if let Some(shadow) = &world.shadow {
            if shadow.len() < HEAD {
                acts.push(Act::Fold);
            }
            if shadow.len() >= world.row.1 || self.0 == Mutant::SwapBehind {
                acts.push(Act::Swap);
            }
        }
        if world.may_crash && !world.log.is_empty() {
            acts.push(Act::Crash);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        let (era, position, state) = world.row.clone();
        match act {
            Act::Read(who) => next.turns[who] = Some((world.row.clone(), world.code)),
            Act::End(who) => {
                let ((read_era, read_position, read), code) = next.turns[who].take()?;
                let same_era = read_era == era || self.0 == Mutant::PositionOnly;
                if self.0 == Mutant::Blind || (read_position == position && same_era) {
                    next.write((era, position + 1, and(read, code)), false);
                }
            }
            Act::Skip => {
                next.may_skip = false;
                next.write((era, position + 1, and(state, 0)), true);
            }
            Act::Deploy => (next.code, next.shadow) = (2, Some(Vec::new())),
            Act::Fold => {
                let shadow = next.shadow.take()?;
                // Dead letters are honoured.
                let code = match state.get(shadow.len()) {
                    Some(0) => 0,
                    _ => 2,
                };
                next.shadow = Some(and(shadow, code));
            }
            Act::Swap => {
                let shadow = next.shadow.take()?;
                next.swapped = true;
                let same = [Mutant::SameEra, Mutant::SwapBehind].contains(&self.0);
                next.write((era + u8::from(!same), shadow.len(), shadow), true);
            }
            Act::Crash => {
                next.row = next.log[0].clone();
                next.log.clear();
                next.may_crash = false;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("safe", |_, world: &World| !world.broken)]
    }
}

#[test]
fn a_cursor_applies_each_event_once_and_in_order_whoever_writes_late() {
    let states = explore(Cursor(Mutant::None));
    println!("cursor: {states:?}");
    // As many as cursor_model.py, which this was ported from, finds.
    assert!(states.is_ok());
}

#[test]
fn each_rule_of_the_compare_and_set_is_needed() {
    use Mutant::*;
    for mutant in [PositionOnly, SameEra, SwapBehind, Blind] {
        assert_eq!(explore(Cursor(mutant)), Err("safe"), "{mutant:?}");
    }
}
