//! Compares the functions in the database with those that this binary was built and tested with.

use super::Postgres;
use crate::store::Error;

/// Migrations that create the functions, newest first: a later migration replaces an earlier text.
const TEXTS: [&str; 9] = [
    include_str!("../../../../migrations/postgres/0110_feed.sql"),
    include_str!("../../../../migrations/postgres/0105_erasures.sql"),
    include_str!("../../../../migrations/postgres/0094_holds.sql"),
    include_str!("../../../../migrations/postgres/0090_versions.sql"),
    include_str!("../../../../migrations/postgres/0080_keeps.sql"),
    include_str!("../../../../migrations/postgres/0045_checksums.sql"),
    include_str!("../../../../migrations/postgres/0018_batches.sql"),
    include_str!("../../../../migrations/postgres/0014_retention.sql"),
    include_str!("../../../../migrations/postgres/0002_functions.sql"),
];

const NAMES: [&str; 6] = [
    "hooklane_append",
    "hooklane_ingest",
    "hooklane_advance",
    "hooklane_prune",
    "hooklane_wait",
    "hooklane_release",
];

impl Postgres {
    /// Compares the functions in the database with those of the binary, settings included.
    ///
    /// # Errors
    /// [`Error::Refused`] when a function differs or is missing.
    pub async fn check_functions(&self) -> Result<(), Error> {
        const READ: &str = "select prosrc, coalesce(proconfig, '{}') from pg_proc
            where proname = $1 and pronamespace = current_schema()::regnamespace";
        let mut db = self.connection().await?;
        for name in NAMES {
            let found: Vec<(String, Vec<String>)> =
                sqlx::query_as(READ).bind(name).fetch_all(&mut db).await?;
            match (found.as_slice(), expected(name)) {
                ([found], Some(expected)) if *found == expected => {}
                _ => return Err(Error::Refused(differs(name))),
            }
        }
        Ok(db.end().await?)
    }
}

fn differs(name: &str) -> String {
    format!(
        "the function {name} in the database is not the one of this version: run the version that migrated it"
    )
}

/// Body and settings of a function, in the form in which the database stores them.
fn expected(name: &str) -> Option<(String, Vec<String>)> {
    let begin = format!("create function {name}(");
    let mut texts = TEXTS.iter().filter_map(|text| text.split_once(&begin));
    let (_, text) = texts.next()?;
    let (head, text) = text.split_once("as $$")?;
    let (body, _) = text.split_once("$$;")?;
    let settings = head.lines().filter_map(|line| line.strip_prefix("set "));
    let settings = settings.map(|setting| setting.replace(" to ", "="));
    Some((body.to_owned(), settings.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_in_the_text_with_its_settings() {
        for name in NAMES {
            let (body, settings) = expected(name).unwrap();
            assert!(body.contains("synchronous_commit"), "{name}");
            assert!(
                settings.contains(&"enable_seqscan=off".to_owned()),
                "{name}"
            );
        }
    }
}
