//! Entry point: sets up the process and runs the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    live_in_utc();
    without_huge_pages();
    hooklane::cli::main(std::env::args_os()).into()
}

/// Makes the kernel use small pages. It zeroes a huge page of 2 MiB when it is first touched: measured,
/// commits and everything behind them stopped for 5 ms, again and again while memory grew. Does nothing
/// on systems without this setting.
fn without_huge_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Sets the time zone of the process to UTC: the `Date` of a script must give the same state on every
/// machine.
#[allow(
    unsafe_code,
    reason = "the environment is changed before any other thread starts"
)]
fn live_in_utc() {
    // SAFETY: this is the first statement of `main`; no other thread can read the environment.
    unsafe { std::env::set_var("TZ", "UTC") }
}
