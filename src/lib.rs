//! hooklane receives webhooks, stores each one durably before it answers, and processes them strictly
//! in order, stream by stream, through lanes.
//!
//! # The floors, from the ground up
//!
//! Each names only floors below it.
//!
//! - [`domain`]: the words, without I/O. [`text`]: numbers and hostile texts for people. [`metrics`]:
//!   every counter. [`config`]: what `serve` runs with. [`api`]: requests and answers in JSON.
//! - [`store`]: what is kept, in a SQLite file or on a Postgres server. [`lanes`]: which cursors have work.
//! - [`engine`]: what happens. [`admin`]: every operation of an operator, once.
//! - [`http`]: the doors. [`client`]: the daemon as commands see it. [`tui`]: the dashboard. [`cli`]: the commands.
//!
//! # One event's way
//!
//! `http/receive.rs` asks `http/auth.rs` who sends, reads the body, finds the ordering key and lets the
//! event into `engine/intake.rs`, the bounded queue. `engine/committer.rs` gives whatever gathered
//! during the last commit to `store/backend.rs`, which has an arm for each database. In a file
//! `store/backend/sqlite/writer.rs` numbers it, appends it to the log and commits; on a server
//! `store/backend/postgres/append.rs` has one function of the database do the same. Only then is the sender answered, and [`lanes`] gets a hint for each cursor of the
//! stream, in the lane its slot points to. Door and committer have threads of their own, those of
//! `engine/front.rs`. In the lane `engine/worker.rs` takes the hint, `engine/lane.rs` says who is next,
//! `engine/turn.rs` reads the events after the position, `engine/reduce.rs` folds them (scripts in processes of
//! their own: `engine/reduce/process.rs`), and
//! `advance.rs` of the database moves state and position in one row, by compare-and-set. On failure that cursor
//! alone is set aside; its lane goes on. Hooks that fold for longer than their share (`engine/share.rs`) take turns
//! beside their lanes: `engine/slow.rs`. `engine/sweep.rs` finds what a lost hint left behind.
//!
//! A forward handler's cursor goes from its lane to the gate of its destination, `engine/forward.rs`, which reads,
//! sends and moves the position after a 2xx; the lane goes on meanwhile. Consumers that ask get theirs from
//! `engine/pull`. Scripts fold in processes of their own: `engine/reduce/process.rs`.
//!
//! Lanes change under way: `admin/resize.rs` asks, `store/lane_sets.rs` has the rows, `engine.rs` ends the
//! old lanes' turns and seals them, `engine/place.rs` brings what was hinted to the wrong lane to the
//! right one.
//!
//! States are folded again beside the turns: `engine/rebuild.rs`, with its rows in `store/rebuilds.rs`. Hints are
//! made again by every node: `admin/hints.rs` asks, `engine/wipe.rs` answers.
//!
//! What is old goes: `engine/prune.rs` finds it and folds it once more, `prune.rs` of the database removes it and
//! keeps the checkpoint, where a fold from the beginning begins from then on.
//!
//! A reducer is tried before it is live in `admin/tryout.rs`. Commands that are printed to be pasted are quoted in
//! `text/shell.rs`.
//!
//! What operators stop by name, a hook or a stream: `admin/stops.rs`. What a node stands on: `admin/doctor.rs`. Who
//! did what is noted in the transaction that does it: `store/note.rs`; `store/audit.rs` lists it.
//!
//! Another server behind the same address may not have all that was acknowledged: `store/history.rs` tells
//! servers apart, `engine/ownership.rs` begins anew, `admin/lost.rs` has what is missing.
//!
//! What is seen of the whole is computed once a second: `admin/monitor/look.rs` looks, `admin/verdict.rs` says
//! in words what is wrong, `admin/eta.rs` when it will be over; `status` and `tui` show it.
//!
//! Damage: each database's `inspect.rs` in `store/backend/` looks for it, `store/error.rs` says what ends the process,
//! `domain/event.rs` has the checksum. A server that is silent: `store/backend/silence.rs`.
//!
//! Which session of a server a statement runs in, also behind a pooler: `store/backend/session.rs`. Why a server
//! does not let us in: `store/backend/postgres/refusal.rs`.
//!
//! # The store
//!
//! `store.rs` opens, begins, commits and closes. The files beside it are what [`store::Store`] offers: statements
//! that both databases understand. What is hot goes through `store/backend.rs`, where `backend/ops.rs` has the
//! requests and the answers, and each database a wing with the same rooms: `append`, `advance`, `inputs`, `prune`.
//! In `backend/sqlite/` one thread writes, `writer.rs`; its index is built behind the log, `index.rs`, and the end
//! of the log is in memory, `tail.rs`. In `backend/postgres/` the work is done by functions of the database, which
//! `functions.rs` compares with those of this binary.
//!
//! # Promises
//!
//! To senders: before the first byte of a 2xx is sent, the event, its place and its dedupe key are on stable storage.
//! Two more are cited by number:
//!
//! - **O1**: a sender that has read the 2xx for A before it sends B to the same stream gets a lower seq for A.
//! - **O3**: a request without a 2xx is stored once or not at all; after a 4xx it is not stored.
//!
//! Invariants that tests check and cite, within one stream where nothing else is said:
//!
//! - **I1 durable**: an event with a 2xx is stored once, with the same body, until retention removes it.
//! - **I2 gapless**: the seqs are floor + 1 to head, in every snapshot.
//! - **I3 real time**: of two events, the one that was acknowledged before the other was sent has the lower seq.
//! - **I4 fold**: state and chain of a cursor are those of its events up to its position, less its dead letters.
//! - **I5 monotone**: within an era a position never goes down, but for a crash of Postgres with asynchronous advances.
//! - **I6 forward**: event k + 1 is first delivered after event k was accepted or has a dead letter.
//! - **I7 exclusion**: turns of a lane do not overlap, and neither do deliveries of a cursor.
//! - **I8 liveness**: 30 s after the last fault, each cursor that is not set aside or stopped is at its head or its mark.
//! - **I9 ownership**: epochs of a lane grow, a lane has at most one owner, and a lane runs only after all older lanes
//!   with streams of it are sealed.
//! - **I10 poison**: a skipped event has one dead letter a handler, made in the transaction that passed the event.
//! - **I11 keys**: nothing is stored without a valid key, or under a key that was revoked more than 2 s before.
//! - **I12 dedupe**: a stream has one event a dedupe key, and repeats are answered with its id and seq.
//! - **I13 bounded**: queues, memory, descriptors and the write-ahead log stay under their limits, without deadlocks.
//!
//! The rules that keep them: a producer hints after its commit; a consumer removes a hint before it reads the database;
//! a cursor moves by compare-and-set on its era and its position; a reader refuses gaps; a lane is swept after it was
//! taken and before its first turn. `tests/spec/models` checks these rules in every interleaving of small models,
//! `engine/simulation.rs` checks the code that decides against seeds, `tests/spec/checker.rs` a daemon from outside.
//!
//! # Where to look first
//!
//! The order: `store/backend/sqlite/append.rs`, `hooklane_append` in `migrations/postgres/`. Who is next: `engine/lane.rs`. Why a cursor stands: `engine/turn.rs`.
//! How it is put together: `cli/serve.rs`. All of it at work in one process: `cli/demo.rs`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod engine;
pub mod http;
pub mod lanes;
pub mod metrics;
pub mod store;
pub mod text;
pub mod trust;
pub mod tui;
