//! Acts of senders and operators, carried out while everything else goes on.

use super::World;
use super::wish::Wish;
use crate::domain::cursor::{Condition, Holder};
use crate::domain::event::StreamId;
use crate::domain::hook::HookId;
use crate::engine::simulation::database::NAMESPACES;
use crate::engine::simulation::mutant::Mutant;
use crate::store::{Mover, Step};

/// Number of times that an operator who moves a hook checks the nodes before giving up.
const LOOKS_MAX: usize = 25;

impl World {
    pub(super) fn send(&mut self) {
        let stream = self.stream();
        let Some(at) = self.any() else { return };
        let body = match self.out.below(30) {
            0 => b'r',
            1 => b't',
            _ => b'o',
        };
        let (node, out) = self.node(at);
        if node.lets_in() {
            node.requests.push_back((stream, body, out.now));
        }
    }

    fn stream(&mut self) -> StreamId {
        let nth = self.out.below(self.out.database.streams.len() as u64) as usize;
        *self
            .out
            .database
            .streams
            .keys()
            .nth(nth)
            .expect("one of them")
    }

    pub(super) fn operate(&mut self) {
        let Some(at) = self.any() else { return };
        let namespace = NAMESPACES[self.out.below(2) as usize].parse().unwrap();
        let set = self.out.database.set(&namespace).clone();
        let mut lanes: Vec<_> = set.ids().collect();
        if self.out.chance(0.3) {
            lanes = vec![lanes.swap_remove(self.out.below(lanes.len() as u64) as usize)];
        }
        let count = 1 + self.out.below(4) as u16;
        let hook = HookId(1 + self.out.below(2) as i64);
        let stream = self.stream();
        let what = match self.out.refolds && self.out.chance(0.5) {
            // Lanes and hooks are stopped and resumed while their states are rebuilt.
            true => [6, 9, 12, 16][self.out.below(4) as usize],
            false => self.out.below(20),
        };
        let wish = match what {
            0..5 if count != set.lanes => Wish::Resize(set, count),
            5 => Wish::Plan(set, count),
            6 => Wish::Pause(set, lanes),
            7 | 8 => Wish::Drain(set, lanes),
            0..10 => Wish::Resume(set.clone(), set.ids().collect()),
            10 | 11 => {
                let from = self.out.database.namespace_of(hook).clone();
                match from == namespace {
                    true => return,
                    false => Wish::Move(hook, from, namespace),
                }
            }
            12 => return self.pause_or_resume(at, hook),
            13 => return self.hold(at, stream),
            14 => return self.release(at, stream),
            15 => {
                let (node, out) = self.node(at);
                out.database.edit_hook(hook);
                let _ = node.config_changed(out);
                return;
            }
            16..19 => return self.rebuild_state(at, stream),
            _ => {
                let wipes = self.out.chance(0.5);
                let (node, out) = self.node(at);
                return match wipes {
                    true => node.wipe(&namespace, out),
                    false => node.make_hints_again(&namespace, out),
                };
            }
        };
        self.wishes.push((at, wish));
    }

    fn pause_or_resume(&mut self, at: usize, hook: HookId) {
        let (node, out) = self.node(at);
        let stop = out.database.stops.get(&hook);
        match stop.is_some_and(|(stop, _)| stop.pause.is_some()) {
            true => out.database.resume_hook(hook),
            false => out.database.pause_hook(hook),
        }
        let _ = node.config_changed(out);
    }

    /// Simulates `Admin::rebuild`.
    fn rebuild_state(&mut self, at: usize, stream: StreamId) {
        let (node, out) = self.node(at);
        if node.config_changed(out).is_ok() {
            let hook = out.database.streams[&stream].hook;
            let fold = node.catalog.hooks_by_id[&hook].handlers[0].fold;
            out.database.begin_rebuild(stream, fold);
            node.refold_at = out.now;
        }
    }

    fn hold(&mut self, at: usize, stream: StreamId) {
        let (node, out) = self.node(at);
        let cursor = out.database.streams[&stream].cursor.clone();
        let held = Step {
            cursor: cursor.id,
            era: cursor.era,
            from: cursor.position,
            to: cursor.position,
            state: cursor.state,
            chain: cursor.chain,
            condition: Condition::Held {
                reason: "by hand".to_owned(),
                by: Holder::Operator,
            },
            skipped: Vec::new(),
            mover: Mover::Operator,
            at: out.time(),
        };
        out.database.advance(vec![held], None);
        node.let_go(stream, out);
    }

    pub(super) fn release(&mut self, at: usize, stream: StreamId) {
        let (node, out) = self.node(at);
        if out.database.release(stream) {
            node.let_go(stream, out);
        }
    }

    /// Carries out a decision; the situation may have changed since.
    pub(super) fn fulfil(&mut self) {
        if self.wishes.is_empty() {
            return;
        }
        let nth = self.out.below(self.wishes.len() as u64) as usize;
        let (at, wish) = self.wishes.swap_remove(nth);
        let now = self.out.now;
        let Some(node) = &mut self.machines[at].node else {
            return;
        };
        if node.frozen_until > now {
            return self.wishes.push((at, wish));
        }
        let out = &mut self.out;
        let database = &mut out.database;
        match wish {
            Wish::Resize(set, lanes) => {
                database.begin_resize(&set, lanes);
            }
            Wish::Plan(set, lanes) => {
                database.plan_resize(&set, lanes);
            }
            Wish::Pause(set, lanes) => {
                database.pause_lanes(&set, &lanes);
            }
            Wish::Drain(set, lanes) => {
                database.drain_lanes(&set, &lanes);
            }
            Wish::Resume(set, lanes) => {
                database.resume_lanes(&set, &lanes);
            }
            Wish::Move(hook, from, to) => {
                if let Some(moving) = database.begin_move(hook, &from, &to) {
                    self.wishes.push((at, Wish::EndMove(moving, 0)));
                }
            }
            Wish::EndMove(moving, looks) => {
                let nodes = database.nodes.iter();
                let late = nodes.filter(|node| node.config_seen < moving.since).count();
                let all = (late == 0 && node.acted >= moving.since)
                    || out.mutant == Mutant::MoveBeforeAllAct;
                if !all && looks > LOOKS_MAX {
                    database.give_up_move(&moving);
                } else if !all || !node.end_move(&moving, out).unwrap_or(false) {
                    self.wishes.push((at, Wish::EndMove(moving, looks + 1)));
                    return;
                }
            }
        }
        let _ = node.config_changed(out);
    }
}
