//! The first lines of a node.

use std::time::Instant;

use super::node::Started;
use crate::cli::Printer;
use crate::config::Config;
use crate::http::edge::Limits;
use crate::store::Database;
use crate::{config, text};

/// Prints the first lines of a node, which end in `ready`.
pub fn greet(
    config: &Config,
    is_new: bool,
    started: &Started,
    began: Instant,
    out: &mut Printer,
) -> std::io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let (node, address, epoch) = (&config.node, started.address(), started.epoch());
    let data = config.data.path().display();
    tracing::info!(version, node, %data, %address, epoch, "ready");
    if config.log == config::Log::Json {
        // With a JSON log, stderr contains only JSON.
        return Ok(());
    }
    let new = if is_new { " (new)" } else { "" };
    out.say(format_args!(
        "hooklane {version}   node {node}   {}, {}",
        set_up(config),
        text::counted(started.lanes(), "lane", "lanes")
    ))?;
    out.say(format_args!(
        "  data   {data}{new}       every command here works through its socket, without a key"
    ))?;
    let scheme = match config.door.tls {
        Some(_) => "https",
        None => "http",
    };
    out.say(format_args!("  in     POST {scheme}://{address}/in/HOOK"))?;
    let connections = started.connections_max();
    if connections < Limits::default().connections_max {
        let connections = text::count(connections as u64);
        out.say(format_args!(
            "  limit  {connections} connections: ulimit -n allows no more open files"
        ))?;
    }
    if is_new {
        out.say(format_args!(
            "  next   hooklane hooks create hello --reduce latest"
        ))?;
    }
    let took = crate::text::duration(began.elapsed());
    out.say(format_args!(
        "ready in {took}   (Ctrl-C finishes running turns, keeps all)"
    ))
}

/// The kind of set-up in words.
fn set_up(config: &Config) -> String {
    let database = match &config.database {
        Some(Database::Postgres(_)) => "Postgres",
        _ => "SQLite",
    };
    match &config.redis {
        Some(_) => format!("{database}, hints in Redis"),
        None => format!("{database}, hints in memory"),
    }
}
