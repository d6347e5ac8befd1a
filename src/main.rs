//! Parse, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    live_in_utc();
    hooklane::cli::main(std::env::args_os()).into()
}

/// Makes UTC the time zone of everything in this process: a script's `Date` must fold to the same
/// state on every machine.
#[allow(
    unsafe_code,
    reason = "the environment is changed before any other thread starts"
)]
fn live_in_utc() {
    // SAFETY: this is the first statement of `main`; no other thread can read the environment.
    unsafe { std::env::set_var("TZ", "UTC") }
}
