//! Parse, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    live_in_utc();
    without_huge_pages();
    hooklane::cli::main(std::env::args_os()).into()
}

/// Has memory given in small pages. A huge one is zeroed when it is first touched, 2 MiB at once: measured, a
/// commit and everybody behind it stood still for 5 ms, again and again while memory grew. Where the system
/// knows no such thing there is nothing to do.
fn without_huge_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
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
