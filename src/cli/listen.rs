//! `listen`: a pull consumer that posts each event to a local URL, as a forward handler would, and
//! prints the answer.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::print::Row;
use super::reach::{Reach, encoded};
use super::{Exit, Printer, Trouble, flags};
use crate::api::{
    Hook, HookEdit, PullAck, PullAnswers, PullDelivery, PullEdit, PullEvent, PullNack,
    PullOutcomes, PullRequest, PullResponse,
};
use crate::client;
use crate::domain::event::{Event, EventId, StreamId};
use crate::domain::forward::{Begin, Destination, Forward, TIMEOUT_MAX};
use crate::domain::hook::HandlerId;
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::domain::version::Late;
use crate::engine::forward::request::{Delivery, Verdict, request, verdict};
use crate::engine::forward::{Client, Guard};
use crate::text::duration;

/// Time that one call waits for an event.
const WAIT: Duration = Duration::from_secs(20);

/// Length of a lease; longer than one request may take.
const LEASE: &str = "30s";

/// Column widths of the endless list.
const WIDTHS: &[usize] = &[14, 24, 8, 24, 5];

/// Deliver a hook's events to a URL near by, in order, and show each answer
///
/// Each event is posted as a forward handler would post it, signed and with the same headers; the next one of its
/// stream follows after a 2xx. After any other answer the stream waits and the event is tried again. Without --handler
/// a temporary pull handler is made, which needs the socket or an admin key, and removed at the end. Ctrl-C ends and
/// gives back the event that is under way.
///
/// Examples:
///   hooklane listen orders --to http://localhost:3000/webhooks
///   hooklane listen orders --to http://localhost:3000 --from beginning --once
///   hooklane listen jobs --to http://localhost:3000/webhooks --handler worker
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Listen {
    /// The hook
    hook: Name,
    /// Destination: an http or https URL
    #[arg(long, value_name = "URL")]
    to: Destination,
    /// End after one event; exit 1 unless it is answered with a 2xx
    #[arg(long)]
    once: bool,
    /// First event of the temporary handler [default: now]
    #[arg(long, value_name = "beginning|now", value_parser = flags::begin, conflicts_with = "handler")]
    from: Option<Begin>,
    /// A pull handler of the hook: its position moves, and other consumers of it get what this one does not
    #[arg(long, value_name = "NAME")]
    handler: Option<Name>,
    /// A file with the secret that signs, whsec_… [default: one is made and shown]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// A posted event with its answer.
#[derive(Serialize)]
struct Posted {
    at: Timestamp,
    stream: StreamName,
    seq: Seq,
    event: EventId,
    attempt: u32,
    ok: bool,
    answer: String,
    took_ms: f64,
}

impl Row for Posted {
    const HEADER: &'static [&'static str] = &["TIME", "STREAM", "SEQ", "EVENT", "TRY", "ANSWER"];

    fn cells(&self) -> Vec<String> {
        let time = self.at.to_string();
        let time = time.get(11..23).unwrap_or(&time).to_owned();
        vec![
            time,
            self.stream.to_string(),
            self.seq.to_string(),
            super::events::short(self.event),
            self.attempt.to_string(),
            self.answer.clone(),
        ]
    }

    fn name(&self) -> String {
        self.event.to_string()
    }
}

/// The hook and handler to pull from, and the URL to post to.
struct Session<'r> {
    reach: &'r Reach,
    hook: Name,
    handler: Name,
    to: Forward,
    secrets: Vec<Secret>,
    client: Client,
}

/// Completes when the user ends the program.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Listen {
    /// Runs until Ctrl-C, or for one event.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let (secret, is_new) = self.secret()?;
        let (handler, is_temporary) = match &self.handler {
            Some(name) => (name.clone(), false),
            None => (self.make_handler(reach).await?, true),
        };
        let session = Session {
            reach,
            hook: self.hook.clone(),
            handler,
            to: Forward {
                timeout: TIMEOUT_MAX,
                ..Forward::to(self.to.clone())
            },
            client: Client::new(anywhere()),
            secrets: vec![secret],
        };
        let told = session.tell(is_new, is_temporary, out);
        let ended = match told {
            Ok(()) => session.follow(self.once, out).await,
            Err(error) => Err(error.into()),
        };
        if is_temporary {
            session.remove_handler(out).await?;
        }
        ended
    }

    /// The signing secret; true if it was just generated.
    fn secret(&self) -> Result<(Secret, bool), Trouble> {
        let Some(path) = &self.secret_file else {
            return Ok((Secret::generate(), true));
        };
        let wrong = |why: String| {
            let message = format!("no secret in {}: {why}", path.display());
            Trouble::new(Exit::Usage, "no_secret", message)
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let secret = text.trim().parse::<Secret>();
        Ok((secret.map_err(|error| wrong(error.to_string()))?, false))
    }

    async fn make_handler(&self, reach: &Reach) -> anyhow::Result<Name> {
        let name: Name = format!("listen-{:06x}", rand::random::<u32>() & 0xff_ffff).parse()?;
        let edit = HookEdit {
            pull: vec![PullEdit {
                name: name.clone(),
                attempts: None,
                on_error: None,
                lease_ms: None,
                only: None,
                from: Some(self.from.unwrap_or(Begin::Now)),
            }],
            ..HookEdit::default()
        };
        let path = format!("/v1/admin/hooks/{}", self.hook);
        let _: Hook = reach.call(Method::PATCH, &path, Some(&edit)).await?;
        Ok(name)
    }
}

/// Allows every address, because this command is meant for a developer's own machine and network.
fn anywhere() -> Guard {
    Guard::new(vec![
        IpNet::V4(Ipv4Net::default()),
        IpNet::V6(Ipv6Net::default()),
    ])
}

impl Session<'_> {
    fn tell(&self, is_new: bool, is_temporary: bool, out: &mut Printer) -> std::io::Result<()> {
        let (hook, handler) = (&self.hook, &self.handler);
        let mut facts = vec![("listen", format!("{hook} -> {handler} -> {}", self.to.url))];
        if is_temporary {
            let after = format!(
                "removed at the end, else: hooklane hooks edit {hook} --remove-pull {handler}"
            );
            facts.push(("handler", format!("{handler}   temporary: {after}")));
        }
        if let Some(secret) = self.secrets.first().filter(|_| is_new) {
            facts.push((
                "secret",
                format!("{}   signs what is posted", secret.expose()),
            ));
        }
        facts.push(("end", "Ctrl-C; open deliveries are given back".to_owned()));
        out.facts(&facts)
    }

    async fn follow(&self, once: bool, out: &mut Printer) -> anyhow::Result<Exit> {
        let mut end = asked_to_end();
        loop {
            let pulled = tokio::select! {
                biased;
                () = &mut end => return Ok(Exit::Done),
                pulled = self.pull() => pulled?,
            };
            for delivery in &pulled.deliveries {
                let Some(event) = delivery.events.first() else {
                    continue;
                };
                let Some(posted) = self.deliver(delivery, event, &mut end).await? else {
                    return Ok(Exit::Done);
                };
                out.live(&posted, WIDTHS)?;
                if once {
                    return Ok(if posted.ok { Exit::Done } else { Exit::Failed });
                }
            }
        }
    }

    /// Posts one event and answers for it; `None` when it was given back at the end.
    async fn deliver(
        &self,
        delivery: &PullDelivery,
        event: &PullEvent,
        end: &mut End,
    ) -> anyhow::Result<Option<Posted>> {
        let began = Instant::now();
        let verdict = tokio::select! {
            biased;
            () = end => {
                self.nack(delivery, "hooklane listen was ended".into(), Some(Duration::ZERO)).await?;
                return Ok(None);
            }
            verdict = self.post(delivery, event) => verdict,
        };
        let took = began.elapsed();
        let (ok, mut answer) = match verdict {
            Verdict::Acknowledged(_) => (true, format!("2xx in {}", duration(took))),
            Verdict::Failed { reason, .. } | Verdict::Gone { reason } => (false, reason),
        };
        let settled = match ok {
            true => self.ack(delivery, event.seq).await?,
            false => self.nack(delivery, answer.clone(), None).await?,
        };
        if !settled {
            answer.push_str("; too late, another consumer has the delivery");
        }
        Ok(Some(Posted {
            at: Timestamp::now(),
            stream: StreamName {
                hook: self.hook.clone(),
                key: delivery.stream.clone(),
            },
            seq: event.seq,
            event: event.id,
            attempt: delivery.attempt,
            ok: ok && settled,
            answer,
            took_ms: took.as_secs_f64() * 1_000.0,
        }))
    }

    async fn pull(&self) -> Result<PullResponse, client::Error> {
        let ask = PullRequest {
            max_streams: Some(1),
            max_events: Some(1),
            wait: Some(format!("{}s", WAIT.as_secs())),
            lease: Some(LEASE.into()),
        };
        let answer = self.call("", &ask, WAIT).await?;
        self.reach.read(&answer)
    }

    async fn post(&self, delivery: &PullDelivery, pulled: &PullEvent) -> Verdict {
        let failed = |reason: &str| Verdict::Failed {
            reason: reason.to_owned(),
            after: None,
        };
        let Some(body) = body(pulled) else {
            return failed("its body cannot be read");
        };
        let event = Arc::new(Event {
            stream: StreamId(0),
            seq: pulled.seq,
            id: pulled.id,
            received_at: pulled.received_at,
            key_id: None,
            dedupe_key: None,
            headers: pulled.headers.get().into(),
            body,
            late: pulled.late.then_some(Late::Mark),
            is_damaged: false,
        });
        let events = [event];
        let parcel = Delivery {
            to: &self.to,
            secrets: &self.secrets,
            hook: &self.hook,
            key: &delivery.stream,
            handler: &self.handler,
            events: &events,
            attempt: delivery.attempt,
            epoch: delivery.epoch,
            replay: delivery.replay.map(HandlerId),
        };
        let Some(request) = request(&parcel, Timestamp::now()) else {
            return failed("there is no event in it");
        };
        let began = Instant::now();
        let answer = self.client.send(request, self.to.timeout).await;
        verdict(answer, began.elapsed(), &events)
    }

    async fn ack(&self, delivery: &PullDelivery, seq: Seq) -> Result<bool, client::Error> {
        let token = delivery.token.clone();
        self.answer(&PullAnswers {
            acks: vec![PullAck { token, seq }],
            ..PullAnswers::default()
        })
        .await
    }

    async fn nack(
        &self,
        delivery: &PullDelivery,
        reason: String,
        retry_in: Option<Duration>,
    ) -> Result<bool, client::Error> {
        let nack = PullNack {
            token: delivery.token.clone(),
            seq: None,
            retry_in: retry_in.map(|wait| format!("{}ms", wait.as_millis())),
            reason: Some(reason),
        };
        self.answer(&PullAnswers {
            nacks: vec![nack],
            ..PullAnswers::default()
        })
        .await
    }

    /// False if the answer came too late, because the lease had ended.
    async fn answer(&self, answers: &PullAnswers) -> Result<bool, client::Error> {
        let answer = self.call("/ack", answers, Duration::ZERO).await?;
        if answer.status() == StatusCode::CONFLICT {
            return Ok(false);
        }
        let _: PullOutcomes = self.reach.read(&answer)?;
        Ok(true)
    }

    async fn call<T: Serialize>(
        &self,
        verb: &str,
        said: &T,
        longer: Duration,
    ) -> Result<http::Response<Bytes>, client::Error> {
        let (hook, handler) = (encoded(self.hook.as_str()), encoded(self.handler.as_str()));
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/hooks/{hook}/pull/{handler}{verb}"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(said).unwrap_or_default().into());
        self.reach.exchange(request, longer).await
    }

    async fn remove_handler(&self, out: &mut Printer) -> anyhow::Result<()> {
        let edit = HookEdit {
            remove_pull: vec![self.handler.clone()],
            ..HookEdit::default()
        };
        let path = format!("/v1/admin/hooks/{}", self.hook);
        let removed: Result<Hook, _> = self.reach.call(Method::PATCH, &path, Some(&edit)).await;
        match removed {
            Ok(_) => out.say(format_args!("handler {} is removed", self.handler))?,
            Err(error) => out.say(format_args!(
                "handler {} stays ({error}): hooklane hooks edit {} --remove-pull {}",
                self.handler, self.hook, self.handler
            ))?,
        }
        Ok(())
    }
}

/// The body as it was sent.
fn body(event: &PullEvent) -> Option<Bytes> {
    use base64::Engine as _;
    match (&event.body, &event.body_base64) {
        (Some(text), _) => Some(text.clone().into()),
        (None, Some(encoded)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
            bytes.ok().map(Bytes::from)
        }
        (None, None) => None,
    }
}

fn asked_to_end() -> End {
    Box::pin(async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            },
            Err(_) => std::future::pending().await,
        }
    })
}
