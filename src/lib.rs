//! hooklane receives webhooks, stores each one durably before it answers, and processes them strictly
//! in order, stream by stream, through lanes.
//!
//! # The floors, from the ground up
//!
//! Each floor uses only floors below it.
//!
//! - [`domain`]: types and rules without I/O. [`text`]: formatting of numbers and untrusted texts.
//!   [`metrics`]: all metrics. [`config`]: settings of `serve`. [`api`]: requests and answers in JSON.
//! - [`store`]: durable data, in a SQLite file or on a Postgres server. [`lanes`]: which cursors have work.
//! - [`engine`]: the processing. [`admin`]: every operation of an operator, once.
//! - [`http`]: the listeners. [`client`]: access of the commands to the daemon. [`tui`]: the dashboard.
//!   [`cli`]: the commands.
//!
//! # The way of an event
//!
//! `http/receive.rs` asks `http/auth.rs` or `http/verify.rs` who sends, reads the body, finds the ordering key
//! and puts the event into `engine/intake.rs`, the bounded queue. `engine/committer.rs` gives all events that
//! gathered during the last commit to `store/backend.rs`, which has an arm for each database. In a file,
//! `store/backend/sqlite/writer.rs` numbers them, appends them to the log and commits; on a server,
//! `store/backend/postgres/append.rs` calls a function of the database that does the same. Then the sender gets
//! its answer, and [`lanes`] a hint for each cursor of the stream, in the lane of its slot. Listener and
//! committer have their own threads: `engine/front.rs`.
//!
//! If the provider gives its events versions, `domain/version.rs` reads them, and the transaction that numbers
//! an event compares its version with those before it. Events of a hook with a reorder window wait in a table
//! of their own: `engine/release.rs` has them numbered when their windows have ended.
//!
//! In the lane, `engine/worker.rs` takes the hint, `engine/lane.rs` decides which cursor is next,
//! `engine/turn.rs` reads the events after its position, `engine/reduce.rs` folds them (scripts in processes
//! of their own: `engine/reduce/process.rs`), and `advance.rs` of the database stores state and position in
//! one row, by compare-and-set. A failure sets only this cursor aside; its lane goes on. Handlers that fold
//! for longer than their share (`engine/share.rs`) take turns beside the lanes: `engine/slow.rs`.
//! `engine/sweep.rs` finds work whose hint was lost.
//!
//! The cursor of a forward handler goes from its lane to the gate of its destination: `engine/forward.rs`
//! reads, sends, and moves the position after a 2xx, while the lane goes on. Consumers request their events
//! from `engine/pull.rs`.
//!
//! A resize is planned in `admin/resize.rs`; `store/lane_sets.rs` has its rows, `engine/running_lanes.rs` ends
//! the turns of the old lanes and seals them, and `engine/place.rs` moves hints from a wrong lane to the right one.
//!
//! Rebuilds fold states again beside the turns: `engine/rebuild.rs`, with rows in `store/rebuilds.rs`. To make
//! all hints again, `admin/hints.rs` asks and `engine/wipe.rs` of each node acts.
//!
//! Retention: `engine/prune.rs` finds old events and folds them into a checkpoint; `prune.rs` of the database
//! removes them and keeps the checkpoint, where a fold from the beginning then starts.
//!
//! Erasing: `admin/erase.rs` plans it, `store/erase.rs` deletes the streams and removes their bytes, and
//! `engine/erase.rs` finishes it, also after a kill.
//!
//! `admin/tryout.rs` tests a reducer before it is used. `text/shell.rs` quotes commands that are printed to be
//! pasted. `admin/stops.rs` pauses hooks and holds streams, `admin/doctor.rs` checks the machine of a node.
//! `store/note.rs` records each act of an operator in its own transaction; `store/audit.rs` lists the records.
//!
//! After a failover, the server may lack acknowledged events: `store/history.rs` tells servers apart,
//! `engine/ownership.rs` starts again, and `admin/lost.rs` lists the missing events.
//!
//! Once a second `admin/monitor.rs` observes everything, `admin/verdict.rs` says what is wrong, and
//! `admin/eta.rs` when it will be over; `status` and `tui` show it.
//!
//! Damage: `inspect.rs` of each database in `store/backend/` searches for it, `store/error.rs` says which errors
//! end the process, and `domain/event.rs` has the checksum. `store/backend/silence.rs` treats servers that do
//! not answer, `store/backend/session.rs` identifies sessions, also behind a pooler, and
//! `store/backend/postgres/refusal.rs` explains refused connections.
//!
//! # The store
//!
//! `store.rs` opens, begins, commits and closes. The files beside it are the operations of [`store::Store`] with
//! statements that both databases understand. Frequent operations go through `store/backend.rs`: `backend/ops.rs`
//! has the requests and answers, and each database a directory with the same files `append`, `advance`,
//! `inputs` and `prune`. In `backend/sqlite/`, one thread writes (`writer.rs`), the index of the log is built
//! later (`index.rs`), and the end of the log is in memory (`tail.rs`). In `backend/postgres/`, functions of the
//! database do the work; `functions.rs` compares them with those of this binary.
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
//! - **I1 durable**: an event with a 2xx is stored once, with the same body, until retention or an operator removes it.
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
//! Order of events: `store/backend/sqlite/append.rs`, and `hooklane_append` in `migrations/postgres/`. Choice of
//! the next cursor: `engine/lane.rs`. Reasons why a cursor waits: `engine/turn.rs`. Assembly of a daemon:
//! `cli/serve.rs`. All of it in one process: `cli/demo.rs`.

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
#[cfg(test)]
mod mutation;
pub mod store;
pub mod text;
pub mod trust;
pub mod tui;
