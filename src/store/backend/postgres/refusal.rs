//! Explains why a Postgres server, or the pooler in front of it, refuses connections, and what to do:
//! one line for the operator on call.

use sqlx::postgres::PgDatabaseError;

use crate::store::Error;
use crate::store::database::Server;
use crate::store::error::describe;

/// Explains an error that occurred while connecting.
pub fn refusal(server: &Server, error: &sqlx::Error) -> Error {
    let tls = "see sslmode and sslrootcert in its address";
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(database) => of_server(server, database),
            None => unreachable(server, database.message()),
        },
        sqlx::Error::Tls(why) => unfit(server, &format!("cannot be trusted: {why}"), tls),
        // rustls reports certificate problems as invalid data.
        sqlx::Error::Io(why) if why.kind() == std::io::ErrorKind::InvalidData => {
            unfit(server, &format!("cannot be trusted: {why}"), tls)
        }
        other => unreachable(server, &describe(other)),
    }
}

fn of_server(server: &Server, error: &PgDatabaseError) -> Error {
    let (user, name) = (server.native.get_username(), server.name());
    let said = error.message();
    let (what, remedy) = match error.code() {
        "53300" => {
            let remedy = "raise max_connections, or close some: a node holds 20";
            return away(
                server,
                &format!("accepts no connections now: {said}"),
                remedy,
            );
        }
        "53200" => {
            let remedy = "give it some, or lower max_connections";
            return away(server, &format!("is out of memory: {said}"), remedy);
        }
        "57P03" => {
            let remedy = "it starts or stops: wait, and see its log";
            return away(
                server,
                &format!("accepts no connections now: {said}"),
                remedy,
            );
        }
        "08P01" => return of_pooler(server, said),
        "28P01" | "28000" => (
            format!("does not let {user} in: {said}"),
            "see the password, and pg_hba.conf on the server".to_owned(),
        ),
        "XX001" | "XX002" => (
            format!("has a damaged page: {said}"),
            "keep a copy of it, then restore a backup; pg_amcheck says what is wrong".to_owned(),
        ),
        "3D000" => (
            format!("has no database {name}"),
            format!("make it with: createdb --encoding=UTF8 {name}"),
        ),
        "3F000" | "42501" => (
            format!("does not let {user} do in {name} what a node does: {said}"),
            permission(said, user, name),
        ),
        code => (
            format!("refused: {said} ({code})"),
            "see its log".to_owned(),
        ),
    };
    unfit(server, &what, &remedy)
}

/// The remedy for a missing permission.
fn permission(said: &str, user: &str, name: &str) -> String {
    let denied = |what: &str| said.contains(&format!("denied for {what}"));
    match () {
        () if denied("database") => format!("grant connect on database \"{name}\" to \"{user}\""),
        () if denied("function") => {
            format!("grant execute on function pg_control_system() to \"{user}\"")
        }
        () if denied("table") || denied("sequence") || said.contains("must be owner") => {
            "give the user in the address who made the tables".to_owned()
        }
        () => format!("grant create, usage on schema public to \"{user}\""),
    }
}

/// PgBouncer's messages, which all have the same error code, with the remedy for each.
const POOLER: [(&str, &str); 6] = [
    (
        "unsupported startup parameter",
        "set ignore_startup_parameters = extra_float_digits in its pgbouncer.ini",
    ),
    (
        "statement pooling mode",
        "it has pool_mode = statement: set pool_mode = transaction in its pgbouncer.ini",
    ),
    (
        "no such database",
        "add the database to [databases] in its pgbouncer.ini",
    ),
    (
        "does not exist",
        "make the database with: createdb --encoding=UTF8",
    ),
    (
        "authentication failed",
        "see the password, and auth_file in its pgbouncer.ini",
    ),
    (
        "no such user",
        "add the user to auth_file in its pgbouncer.ini",
    ),
];

/// Any other message is taken as passing: the server behind the pooler is away, or all connections are
/// in use.
fn of_pooler(server: &Server, said: &str) -> Error {
    let what = format!("is a pooler that says: {said}");
    match POOLER.iter().find(|(words, _)| said.contains(words)) {
        Some((_, remedy)) => unfit(server, &what, remedy),
        None => {
            let remedy =
                "does the server behind it run, and has it room? A node holds 20 connections";
            away(server, &what, remedy)
        }
    }
}

/// The server cannot be reached at all.
pub fn unreachable(server: &Server, why: &str) -> Error {
    let remedy = "does it run, and is the address right?";
    away(server, &format!("cannot be reached: {why}"), remedy)
}

/// The server must be changed by an operator before a node can use it.
pub fn unfit(server: &Server, what: &str, remedy: &str) -> Error {
    Error::Refused(format!("Postgres at {} {what}; {remedy}", server.place()))
}

/// The server may be available in a moment.
pub fn away(server: &Server, what: &str, remedy: &str) -> Error {
    Error::Away(format!("Postgres at {} {what}; {remedy}", server.place()))
}
