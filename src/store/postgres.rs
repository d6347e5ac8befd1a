//! What is hot, on Postgres.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

use super::cursors::{Advance, Input, Step, Want};
use super::events::{Appended, NewEvent};
use super::{Error, writer::Commit};
use crate::domain::cursor::{Cursor, CursorId};
use crate::domain::position::Seq;
use crate::domain::time::Timestamp;

/// Is told of every transaction.
type Observer = Arc<dyn Fn(Commit) + Send + Sync>;

/// Stores events and moves cursors through a pool of its own.
#[derive(Clone)]
pub(super) struct Hot {}

impl Hot {
    pub(super) async fn open(_: PgConnectOptions, _: Observer) -> Result<Self, Error> {
        Ok(Self {})
    }

    pub(super) async fn check_functions(&self) -> Result<(), Error> {
        Ok(())
    }

    pub(super) async fn append(&self, _: Vec<NewEvent>) -> Result<Vec<Appended>, Error> {
        Err(Error::Closed)
    }

    pub(super) async fn inputs(&self, _: Vec<Want>) -> Result<Vec<Option<Input>>, Error> {
        Err(Error::Closed)
    }

    pub(super) async fn advance(&self, _: Vec<Step>) -> Result<Vec<Advance>, Error> {
        Err(Error::Closed)
    }

    pub(super) async fn cursor(
        &self,
        _: CursorId,
    ) -> Result<Option<(Cursor, Seq, Timestamp)>, Error> {
        Err(Error::Closed)
    }

    pub(super) async fn close(&self) {}
}
