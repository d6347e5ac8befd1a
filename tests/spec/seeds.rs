//! Seeds for tests that choose at random. They are fixed, so that a commit passes always or never.
//! `HOOKLANE_SEED` repeats one, `HOOKLANE_SEEDS` draws so many fresh ones, and both together take so many from
//! the first on.

/// The seeds of a test that tries `count` of them unless something else is asked for.
pub fn seeds(count: u64) -> Vec<u64> {
    let (first, count) = match (given("HOOKLANE_SEED"), given("HOOKLANE_SEEDS")) {
        (None, None) => (0, count),
        (None, Some(count)) => (rand::random::<u32>().into(), count),
        (Some(first), count) => (first, count.unwrap_or(1)),
    };
    (first..first + count).collect()
}

/// The seed of a test that tries one.
pub fn seed() -> u64 {
    seeds(1)[0]
}

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
