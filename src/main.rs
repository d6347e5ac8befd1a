//! temp
use hooklane::config::*;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let c = Config {
        data: DataDir::at(&a[1]),
        listen: a[2].parse().unwrap(),
        lanes: 8,
        node: "n".into(),
        grace: std::time::Duration::from_secs(20),
        log: Log::Short,
    };
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Err(e) = rt.block_on(hooklane::cli::serve::run(c)) {
        eprintln!("error: {e:#}");
        std::process::exit(1)
    }
}
