//! Parts of statements about cursors and their heads, for [`concat!`]. A cursor has no row before its first
//! turn: then it stands at 0 and flows.

/// Every stream `s` with its hook `k`, each of its handlers `h`, and the row of the cursor `c`, if there is
/// one. Deleted hooks and handlers are left out.
macro_rules! every_cursor {
    () => {
        "streams s
            join hooks k on k.id = s.hook and k.deleted_at is null
            join handlers h on h.hook = s.hook and h.deleted_at is null
            left join cursors c on c.stream = s.id and c.handler = h.id"
    };
}

/// The position of the cursor `c`.
macro_rules! position {
    () => {
        "coalesce(c.position, 0)"
    };
}

/// True if the cursor `c` is behind the head of its stream `s`.
macro_rules! is_behind {
    () => {
        concat!("s.head > ", $crate::store::behind::position!())
    };
}

pub(super) use {every_cursor, is_behind, position};
