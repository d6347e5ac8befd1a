//! Removes events at the front of streams and stores checkpoints in their place.

use rusqlite::{Connection, params};

use crate::domain::hook::HookId;
use crate::domain::time::Timestamp;
use crate::store::Error;
use crate::store::backend::ops::{Checkpoint, Cut, Prune, WALKED_MAX};

/// Scans the log from the oldest event of the hook.
pub fn oldest_bytes(db: &Connection, hook: HookId, bytes: i64) -> Result<Option<Timestamp>, Error> {
    const WALK: &str = "select l.received_at, octet_length(l.body) + octet_length(l.headers)
        from log l join streams s on s.id = l.stream
        where s.hook = ?1 and l.n >= (select min(i.n) from streams o
          join log_index i on i.stream = o.id and i.seq = o.floor + 1 where o.hook = ?1)
        order by l.n";
    let mut walk = db.prepare_cached(WALK)?;
    let mut rows = walk.query([hook.0])?;
    let (mut passed, mut walked) = (0, 0);
    while let Some(row) = rows.next()? {
        passed += row.get::<_, i64>(1)?;
        walked += 1;
        if passed >= bytes || walked == WALKED_MAX {
            return Ok(Some(Timestamp::from_millis(row.get(0)?)));
        }
    }
    Ok(None)
}

/// Removes events inside the open transaction. `indexed` is the newest row that the index has. Rows
/// beyond it stay, because the index run under way would add entries for rows that are gone.
pub fn prune(db: &Connection, prune: &Prune, indexed: i64) -> Result<Vec<bool>, Error> {
    const MAY: &str = "select exists (select 1 from hooks where id = ?1 and deleted_at is null)
        and not exists (select 1 from rebuilds where hook = ?1 and state = 'running')
        and not exists (select 1 from handlers where hook = ?1 and deleted_at is null
          and kind = 'reduce' and (id is not ?2 or fold is not ?3))";
    let (handler, fold) = prune.reducer.map_or((None, None), |(handler, fold)| {
        (Some(handler.0), Some(fold))
    });
    let may = db
        .prepare_cached(MAY)?
        .query_row(params![prune.hook.0, handler, fold], |row| row.get(0))?;
    let cut = |cut: &Cut| Ok(may && prune_one(db, prune, cut, indexed)?);
    prune.cuts.iter().map(cut).collect()
}

fn prune_one(db: &Connection, prune: &Prune, cut: &Cut, indexed: i64) -> Result<bool, Error> {
    const IS_DUE: &str = "select exists (select 1 from streams
          where id = ?1 and hook = ?2 and floor = ?3 and ?4 > ?3)
        and not exists (select 1 from handlers k
          left join cursors c on c.stream = ?1 and c.handler = k.id
          where k.hook = ?2 and (k.deleted_at is null or k.replay_stream = ?1 and c.handler is not null)
            and coalesce(c.position, 0) < ?4)
        and (select count(*) from log_index
          where stream = ?1 and seq > ?3 and seq <= ?4 and n <= ?5) = ?4 - ?3";
    const UNMEASURED: &str = "delete from sizes where stream = ?1 and measured < ?2";
    const SIZES: &str = "update sizes set bytes = bytes - (
          select coalesce(sum(octet_length(l.body) + octet_length(l.headers)), 0)
          from log_index i join log l on l.n = i.n where i.stream = ?1 and i.seq <= ?2)
        where stream = ?1";
    const IDS: &str = "delete from log_ids where id in
        (select l.id from log_index i join log l on l.n = i.n where i.stream = ?1 and i.seq <= ?2)";
    const FEED: &str = "insert into feed_floors (hook, place, cuts)
        select s.hook, max(i.n), 1 from streams s join log_index i on i.stream = s.id
          where s.id = ?1 and i.seq <= ?2 group by s.hook
        on conflict (hook) do update set place = max(place, excluded.place), cuts = cuts + 1";
    const EVENTS: &str =
        "delete from log where n in (select n from log_index where stream = ?1 and seq <= ?2)";
    const PLACES: &str = "delete from log_index where stream = ?1 and seq <= ?2";
    const LETTERS: &str = "delete from dead_letters where stream = ?1 and seq <= ?2
        and handler in (select id from handlers where hook = ?3)";
    const KEEP: &str = "insert into checkpoints (stream, handler, position, fold, state, chain)
        values (?1, ?2, ?3, ?4, ?5, ?6)
        on conflict (stream, handler) do update set position = excluded.position,
          fold = excluded.fold, state = excluded.state, chain = excluded.chain";
    const FLOOR: &str = "update streams set floor = ?2 where id = ?1";
    let (stream, to) = (cut.stream.0, cut.to.0);
    let is_due: bool = db.prepare_cached(IS_DUE)?.query_row(
        params![stream, prune.hook.0, cut.floor.0, to, indexed],
        |row| row.get(0),
    )?;
    if !is_due {
        return Ok(false);
    }
    for text in [UNMEASURED, SIZES, IDS, FEED, EVENTS, PLACES, FLOOR] {
        db.prepare_cached(text)?.execute([stream, to])?;
    }
    db.prepare_cached(LETTERS)?
        .execute(params![stream, to, prune.hook.0])?;
    if let Some((handler, _)) = prune.reducer {
        let Checkpoint { fold, state, chain } = &cut.checkpoint;
        db.prepare_cached(KEEP)?.execute(params![
            stream,
            handler.0,
            to,
            fold,
            state,
            chain.as_bytes()
        ])?;
    }
    Ok(true)
}
