//! Line with the outcomes of a handler's deliveries.

use std::time::Duration;

use crate::api::Deliveries;
use crate::domain::time::Timestamp;
use crate::text;

/// `crm to https://crm.example/in: 1,204 acknowledged, 3 failed; last: 503 in 5.0s, 12s ago; last ok 13s ago; answers p50 20ms p99 44ms`.
pub fn told(of: &Deliveries) -> String {
    let ago = |at: Timestamp| format!("{} ago", text::duration(Timestamp::now().since(at)));
    let ms = |ms: u64| text::duration(Duration::from_millis(ms));
    let url = of.url.as_ref();
    let url = url.map_or_else(String::new, |url| format!(" to {url}:"));
    let mut told = format!(
        "{}{url} {} acknowledged, {} failed",
        of.handler,
        text::count(of.acknowledged),
        text::count(of.failed)
    );
    if let Some(at) = of.last_at {
        let what = match (&of.last_failure, of.last_took_ms) {
            (Some(failure), _) => failure.clone(),
            (None, Some(took)) => format!("ok in {}", ms(took)),
            (None, None) => "ok".to_owned(),
        };
        told += &format!("; last: {what}, {}", ago(at));
    }
    if let Some(at) = of.last_ok_at.filter(|_| of.last_failure.is_some()) {
        told += &format!("; last ok {}", ago(at));
    }
    if let Some((p50, p99)) = of.p50_ms.zip(of.p99_ms) {
        told += &format!("; answers p50 {} p99 {}", ms(p50), ms(p99));
    }
    told
}
