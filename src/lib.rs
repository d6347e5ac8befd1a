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
//! What is seen of the whole is computed once a second: `admin/monitor.rs` looks, `admin/verdict.rs` says
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
