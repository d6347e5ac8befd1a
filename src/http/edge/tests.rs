//! Real sockets on free ports, hostile clients, and short limits instead of sleeps.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::http::{body, json};

/// A body limit small enough to be passed.
const BODY_MAX: u64 = 64 * 1024;

/// Time limit for an awaited event in a test.
const SOON: Duration = Duration::from_secs(20);

/// A door with a service behind it.
struct Edge {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    /// Lets one request to `/wait` be answered.
    gate: Arc<Semaphore>,
    /// Number of requests that reached the service.
    arrived: watch::Receiver<usize>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

/// Limits that nothing in a test reaches by accident.
fn patient() -> Limits {
    let long = Duration::from_secs(600);
    Limits {
        first_byte: long,
        head: long,
        idle: long,
        body: long,
        body_grace: long,
        reader: long,
        linger: Duration::from_secs(5),
        stop: long,
        ..Limits::default()
    }
}

const SHORT: Duration = Duration::from_millis(150);

impl Edge {
    async fn with(limits: Limits) -> Self {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address().unwrap();
        Self::on(listener, address, limits)
    }

    fn on(listener: Listener, address: SocketAddr, limits: Limits) -> Self {
        Self::behind(Entrance::default(), listener, address, limits)
    }

    fn behind(entrance: Entrance, listener: Listener, address: SocketAddr, limits: Limits) -> Self {
        let metrics = Metrics::new();
        let gate = Arc::new(Semaphore::new(0));
        let (arrivals, arrived) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        let service = {
            let (gate, arrivals) = (gate.clone(), Arc::new(arrivals));
            move |request, peer, admission| {
                answer(request, peer, admission, gate.clone(), arrivals.clone())
            }
        };
        let stop_asked = async move { drop(stopped.await) };
        let ended = tokio::spawn(serve(
            listener,
            entrance,
            limits,
            metrics.clone(),
            service,
            stop_asked,
        ));
        let stop = Some(stop);
        Self {
            address,
            metrics,
            gate,
            arrived,
            stop,
            ended,
        }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    async fn arrived(&mut self, requests: usize) {
        let all = self.arrived.wait_for(|seen| *seen >= requests);
        timeout(SOON, all).await.unwrap().unwrap();
    }

    fn ask_to_stop(&mut self) {
        self.stop = None;
    }

    async fn stopped(self) {
        timeout(SOON, self.ended).await.unwrap().unwrap();
    }

    async fn accepted(&self, connections: u64) {
        let all = async {
            while self.metrics.connections_accepted.get() < connections {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, all).await.unwrap();
    }

    async fn closed_all_but(&self, connections: i64) {
        let all = async {
            while self.metrics.connections.get() > connections {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, all).await.unwrap();
    }

    fn counted(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|found| found == line)
    }
}

/// `/key` is a request with a valid key, `/wait` answers when the gate opens, `/panic` does not, `/large` answers 64 MB, `/peek` refuses
/// unread, everything else says how long its body was.
async fn answer(
    request: Request<Incoming>,
    peer: Peer,
    admission: Admission,
    gate: Arc<Semaphore>,
    arrivals: Arc<watch::Sender<usize>>,
) -> Response {
    arrivals.send_modify(|seen| *seen += 1);
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/key" => admission.grant(),
        "/wait" => gate.acquire().await.unwrap().forget(),
        "/panic" => panic!("as asked"),
        "/large" => return Response::new(vec![b'x'; 64_000_000].into()),
        "/peek" => return Error::unauthorized().into_response(),
        "/who" => return json(StatusCode::OK, &format!("{peer:?}")),
        _ => {}
    }
    match body::read(&head.headers, body, BODY_MAX, |_| true).await {
        Ok(body) => json(StatusCode::OK, &body.len()),
        Err(refused) => Error::from(refused).into_response(),
    }
}

/// A client that says exactly what it is told to.
struct Client<S = TcpStream>(S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything until the other side closes; a reset counts as a close.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let all = self.0.read_to_end(&mut bytes);
        let _ = timeout(SOON, all)
            .await
            .expect("the connection must be closed");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The next answer: its head, and its body by the length it says.
    async fn answer(&mut self) -> (u16, String) {
        timeout(SOON, self.read_answer())
            .await
            .expect("there must be an answer")
    }

    async fn read_answer(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let mut head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head[9..12].parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        head.push_str(&String::from_utf8(body).unwrap());
        (status, head)
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>) -> (u16, String) {
        self.send(request).await;
        self.answer().await
    }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn status(answer: &(u16, String)) -> u16 {
    answer.0
}

#[tokio::test]
async fn a_slow_head_is_cut_off_while_good_requests_are_answered_at_once() {
    let edge = Edge::with(Limits {
        head: SHORT,
        ..patient()
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(edge.connect().await);
    }
    let (mut slow_reader, mut slow_writer) = edge.connect().await.0.into_split();
    let dripping = tokio::spawn(async move {
        let mut drip = tokio::time::interval(Duration::from_millis(5));
        while slow_writer.write_all(b"G").await.is_ok() {
            drip.tick().await;
        }
    });
    let mut good = edge.connect().await;
    let began = Instant::now();
    assert_eq!(status(&good.ask(post("/", b"abc")).await), 200);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );

    let mut nothing = Vec::new();
    let closed = slow_reader.read_to_end(&mut nothing);
    let _ = timeout(SOON, closed)
        .await
        .expect("the slow one must be cut off");
    dripping.await.unwrap();
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"head\"} 1"));
    assert_eq!(
        status(&good.ask(post("/", b"abc")).await),
        200,
        "idle is no slow head"
    );
    assert_eq!(
        edge.metrics.connections.get(),
        201,
        "silent ones are still within their time"
    );
}

#[tokio::test]
async fn silent_connections_are_closed_when_their_time_is_up() {
    let edge = Edge::with(Limits {
        first_byte: SHORT,
        ..patient()
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(edge.connect().await);
    }
    for client in &mut silent {
        assert_eq!(client.rest().await, "");
    }
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"first_byte\"} 200"));
    edge.closed_all_but(0).await;
}

#[tokio::test]
async fn the_next_request_has_the_idle_time_and_not_that_of_a_head() {
    let limits = Limits {
        first_byte: SHORT,
        head: SHORT,
        idle: SHORT * 6,
        ..patient()
    };
    let edge = Edge::with(limits).await;
    let mut client = edge.connect().await;
    let mut last = Instant::now();
    for _ in 0..2 {
        assert_eq!(status(&client.ask(post("/", b"abc")).await), 200);
        last = Instant::now();
    }
    assert_eq!(client.rest().await, "");
    assert!(last.elapsed() >= SHORT * 5, "{:?}", last.elapsed());
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"request\"} 1"));
}

#[tokio::test]
async fn an_answer_may_take_longer_than_any_time_a_client_has() {
    let limits = Limits {
        first_byte: SHORT,
        head: SHORT,
        idle: SHORT,
        body: SHORT,
        body_grace: SHORT,
        reader: SHORT,
        ..patient()
    };
    let mut edge = Edge::with(limits).await;
    let mut client = edge.connect().await;
    client.send(post("/wait", b"abc")).await;
    edge.arrived(1).await;
    // A connection that begins later and is cut off shows that the time has passed.
    edge.connect().await.rest().await;
    edge.connect().await.rest().await;
    edge.gate.add_permits(1);
    assert_eq!(status(&client.answer().await), 200);
}

#[tokio::test]
async fn a_body_that_stands_still_is_answered_408() {
    let edge = Edge::with(Limits {
        body_grace: SHORT,
        ..patient()
    })
    .await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("too_slow") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"body\"} 1"));
}

#[tokio::test]
async fn a_body_that_drips_faster_than_its_rate_is_cut_off_at_the_end_of_its_time() {
    let limits = Limits {
        body: SHORT * 3,
        body_grace: SHORT,
        body_rate_min: 1,
        ..patient()
    };
    let edge = Edge::with(limits).await;
    let (mut reader, mut writer) = edge.connect().await.0.into_split();
    let began = Instant::now();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n";
    writer.write_all(head.as_bytes()).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut drip = tokio::time::interval(Duration::from_millis(5));
        while writer.write_all(b"x").await.is_ok() {
            drip.tick().await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(SOON, reader.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(began.elapsed() >= SHORT * 3, "{:?}", began.elapsed());
    drop(reader);
    dripping.await.unwrap();
}

#[test]
fn bytes_buy_a_body_time_up_to_a_limit() {
    let limits = Limits::default();
    for (received, seconds) in [
        (0, 5),
        (1_024, 6),
        (10_239, 14),
        (10_240, 15),
        (u64::MAX, 15),
    ] {
        assert_eq!(
            limits.body_patience(received).as_secs(),
            seconds,
            "{received}"
        );
    }
}

#[tokio::test]
async fn the_time_of_one_body_is_not_charged_to_the_next() {
    let limits = Limits {
        body: SHORT * 2,
        body_grace: SHORT * 2,
        ..patient()
    };
    let edge = Edge::with(limits).await;
    let mut client = edge.connect().await;
    let began = Instant::now();
    while began.elapsed() < SHORT * 5 {
        client
            .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
            .await;
        // The other half comes when a byte of the first must have been missed.
        edge.connect().await.ask(post("/", b"abc")).await;
        client.send("bc").await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let mut edge = Edge::with(Limits {
        reader: SHORT,
        ..patient()
    })
    .await;
    let mut client = edge.connect().await;
    client.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    edge.arrived(1).await;
    edge.closed_all_but(0).await;
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"reader\"} 1"));
}

#[tokio::test]
async fn a_head_that_is_too_long_or_has_too_many_headers_is_answered_431() {
    let edge = Edge::with(patient()).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(33_000));
    assert!(
        edge.connect()
            .await
            .ask(long)
            .await
            .1
            .starts_with("http/1.1 431")
    );
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(40_000));
    assert!(
        edge.connect()
            .await
            .ask(endless)
            .await
            .1
            .starts_with("http/1.1 431")
    );
    let many = |headers: usize| {
        let more = "x: y\r\n".repeat(headers - 1);
        format!("GET / HTTP/1.1\r\nhost: x\r\n{more}\r\n")
    };
    assert_eq!(status(&edge.connect().await.ask(many(64)).await), 200);
    for headers in [65, 100, 101, 1_000] {
        assert_eq!(
            status(&edge.connect().await.ask(many(headers)).await),
            431,
            "{headers}"
        );
    }
    let wide = format!("GET /?{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(31_000));
    assert_eq!(status(&edge.connect().await.ask(wide).await), 200);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_answered_413_even_to_a_client_that_goes_on_sending() {
    let edge = Edge::with(patient()).await;
    let body = vec![b'x'; 3_000_000];
    let mut by_length = edge.connect().await;
    let answer = by_length.ask(post("/", &body)).await;
    assert!(
        answer.0 == 413 && answer.1.contains("connection: close"),
        "{answer:?}"
    );
    assert_eq!(by_length.rest().await, "");

    let mut by_chunks = edge.connect().await;
    by_chunks
        .send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for piece in body.chunks(10_000) {
        by_chunks.send(format!("{:x}\r\n", piece.len())).await;
        by_chunks.send([piece, b"\r\n"].concat()).await;
    }
    assert_eq!(status(&by_chunks.answer().await), 413);
    assert_eq!(by_chunks.rest().await, "");
}

#[tokio::test]
async fn a_body_within_the_limit_arrives_whole_in_whichever_form() {
    let edge = Edge::with(patient()).await;
    let mut client = edge.connect().await;
    let (_, most) = client.ask(post("/", &vec![b'x'; BODY_MAX as usize])).await;
    assert!(most.ends_with("65536"), "{most}");
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let (_, chunked) = client.ask("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n").await;
    assert!(chunked.ends_with("\r\n\r\n7"), "{chunked}");
    let (_, none) = client.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(none.ends_with("\r\n\r\n0"), "{none}");
}

#[tokio::test]
async fn a_broken_body_is_answered_400_and_an_encoded_one_415() {
    let edge = Edge::with(patient()).await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(status(&client.ask("zz\r\nabc").await), 400);
    let mut client = edge.connect().await;
    let encoded =
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(status(&client.ask(encoded).await), 415);
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
        .await;
    client.0.shutdown().await.unwrap();
    assert_eq!(status(&client.answer().await), 400);
}

#[tokio::test]
async fn what_is_not_http_1_is_refused_and_closed() {
    let edge = Edge::with(patient()).await;
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for garbage in [
        hello,
        &[0; 64],
        b"\xff\xfe\xfd garbage\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut client = edge.connect().await;
        client.send(garbage).await;
        client.0.shutdown().await.unwrap();
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer}");
        assert!(
            answer.contains(r#"{"error":{"code":"malformed","#),
            "{answer}"
        );
    }
    for other in [
        "GET / HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let mut client = edge.connect().await;
        client.send(other).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
    }
    let mut smuggler = edge.connect().await;
    let both = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd";
    assert_eq!(status(&smuggler.ask(both).await), 400);
    edge.closed_all_but(1).await;
    assert_eq!(edge.metrics.connections_panicked.get(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let edge = Edge::with(patient()).await;
    let mut client = edge.connect().await;
    let all: Vec<u8> = (1..=40)
        .flat_map(|length| post("/", &vec![b'x'; length]))
        .collect();
    client.send(all).await;
    for length in 1..=40 {
        let (_, answer) = client.answer().await;
        assert!(answer.ends_with(&format!("\r\n\r\n{length}")), "{answer}");
    }
}

#[tokio::test]
async fn a_half_closed_connection_gets_its_answer() {
    let mut edge = Edge::with(patient()).await;
    let mut client = edge.connect().await;
    client.send(post("/wait", b"abc")).await;
    client.0.shutdown().await.unwrap();
    edge.arrived(1).await;
    edge.gate.add_permits(1);
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    edge.closed_all_but(0).await;
}

#[tokio::test]
async fn a_connection_that_its_client_closes_is_forgotten() {
    let edge = Edge::with(patient()).await;
    let mut client = edge.connect().await;
    client.ask(post("/", b"abc")).await;
    drop(client);
    drop(edge.connect().await);
    let mut broken = edge.connect().await;
    broken.send("POST / HT").await;
    drop(broken);
    edge.accepted(3).await;
    edge.closed_all_but(0).await;
}

#[tokio::test]
async fn a_continue_is_sent_only_for_a_body_that_is_wanted() {
    let edge = Edge::with(patient()).await;
    let expect = |path: &str, length: u64| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut client = edge.connect().await;
    assert_eq!(status(&client.ask(expect("/", 3)).await), 100);
    assert_eq!(status(&client.ask("abc").await), 200);
    assert_eq!(status(&client.ask(expect("/", BODY_MAX + 1)).await), 413);
    assert_eq!(client.rest().await, "");
    let mut client = edge.connect().await;
    assert_eq!(status(&client.ask(expect("/peek", 3)).await), 401);
}

#[tokio::test]
async fn stopping_answers_what_is_on_its_way_and_closes_the_rest() {
    let mut edge = Edge::with(patient()).await;
    let mut busy = edge.connect().await;
    busy.send(post("/wait", b"abc")).await;
    let mut idle = edge.connect().await;
    idle.ask(post("/", b"abc")).await;
    let mut silent = edge.connect().await;
    edge.arrived(2).await;

    edge.ask_to_stop();
    assert_eq!(
        (idle.rest().await, silent.rest().await),
        (String::new(), String::new())
    );
    assert!(
        TcpStream::connect(edge.address).await.is_err(),
        "nobody listens any more"
    );
    assert!(!edge.ended.is_finished());
    edge.gate.add_permits(1);
    let answer = busy.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    edge.stopped().await;
}

#[tokio::test]
async fn stopping_while_idle_waits_for_nobody() {
    let mut edge = Edge::with(Limits {
        linger: Duration::from_secs(600),
        ..patient()
    })
    .await;
    let mut idle = edge.connect().await;
    idle.ask(post("/", b"abc")).await;
    edge.ask_to_stop();
    edge.stopped().await;
}

#[tokio::test]
async fn stopping_cuts_off_what_outlasts_its_time() {
    let mut edge = Edge::with(Limits {
        stop: SHORT,
        ..patient()
    })
    .await;
    let mut busy = edge.connect().await;
    busy.send(post("/wait", b"abc")).await;
    edge.arrived(1).await;
    edge.ask_to_stop();
    assert_eq!(busy.rest().await, "");
    let metrics = edge.metrics.clone();
    edge.stopped().await;
    assert_eq!(metrics.connections.get(), 0);
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_only() {
    let edge = Edge::with(patient()).await;
    let mut other = edge.connect().await;
    other.ask(post("/", b"abc")).await;
    let mut unlucky = edge.connect().await;
    unlucky.send(post("/panic", b"abc")).await;
    assert_eq!(unlucky.rest().await, "");
    edge.closed_all_but(1).await;
    assert_eq!(status(&other.ask(post("/", b"abc")).await), 200);
    assert_eq!(
        status(&edge.connect().await.ask(post("/", b"abc")).await),
        200
    );
    assert!(edge.counted("hooklane_connections_panicked_total 1"));
}

#[tokio::test]
async fn beyond_the_cap_connections_are_turned_away_until_one_is_idle() {
    let mut edge = Edge::with(Limits {
        connections_max: 2,
        ..patient()
    })
    .await;
    let mut first = edge.connect().await;
    first.ask(post("/key", b"abc")).await;
    let mut second = edge.connect().await;
    second.send(post("/wait", b"abc")).await;
    edge.arrived(2).await;
    let turned_away = edge.connect().await.rest().await;
    assert!(turned_away.starts_with("HTTP/1.1 503"), "{turned_away}");
    assert!(
        turned_away.contains(r#"{"error":{"code":"too_many_connections","#),
        "{turned_away}"
    );
    assert!(edge.counted("hooklane_connections_refused_total{reason=\"total\"} 1"));
    edge.gate.add_permits(1);
    assert_eq!(status(&second.answer().await), 200);
    // It is idle now, has no key, and makes room.
    let mut third = edge.connect().await;
    assert_eq!(status(&third.ask(post("/", b"abc")).await), 200);
    assert_eq!(second.rest().await, "");
}

#[tokio::test]
async fn silent_strangers_make_room_and_a_sender_with_a_key_stays() {
    let edge = Edge::with(Limits {
        connections_max: 8,
        ..patient()
    })
    .await;
    let mut sender = edge.connect().await;
    sender.ask(post("/key", b"abc")).await;
    let mut strangers = Vec::new();
    for _ in 0..40 {
        let mut stranger = edge.connect().await;
        assert_eq!(status(&stranger.ask(post("/", b"abc")).await), 200);
        strangers.push(stranger);
    }
    assert_eq!(strangers[0].rest().await, "", "the first one had to go");
    let mut other = edge.connect().await;
    assert_eq!(status(&other.ask(post("/key", b"abc")).await), 200);
    assert_eq!(status(&sender.ask(post("/", b"abc")).await), 200);
    assert!(edge.metrics.connections.get() <= 8);
    assert!(edge.metrics.connections_evicted.get() >= 36);
}

#[tokio::test]
async fn a_refused_head_is_answered_in_json_behind_the_answers_before_it() {
    let edge = Edge::with(patient()).await;
    for (bad, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
            501,
            "transfer_encoding",
        ),
        ("POST / HTTP/1.0\r\n\r\n{}", 411, "length_required"),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551616\r\n\r\n",
            413,
            "too_large",
        ),
        (
            "GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
            400,
            "malformed",
        ),
    ] {
        let mut client = edge.connect().await;
        let chunked = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\n\r\n";
        let wire = [
            post("/", b"abc"),
            chunked.into(),
            bad.into(),
            post("/", b""),
        ]
        .concat();
        client.send(wire).await;
        for _ in 0..2 {
            assert_eq!(client.answer().await.0, 200);
        }
        let answer = client.answer().await;
        assert_eq!(answer.0, status, "{answer:?}");
        let form = format!("{{\"error\":{{\"code\":\"{code}\",");
        assert!(answer.1.contains(&form), "{answer:?}");
        assert!(answer.1.contains("connection: close"), "{answer:?}");
        assert_eq!(client.rest().await, "", "nothing behind it is answered");
    }
}

#[tokio::test]
async fn a_head_in_single_bytes_is_read_like_any_other_and_has_the_time_of_a_head() {
    let edge = Edge::with(Limits {
        head: SHORT * 20,
        ..patient()
    })
    .await;
    let mut client = edge.connect().await;
    for byte in post("/", b"abc") {
        client.send([byte]).await;
    }
    assert_eq!(client.answer().await.0, 200);
    // The beginning of the next head comes together with a whole request.
    client
        .send([post("/", b"abc"), b"GET / HT".to_vec()].concat())
        .await;
    assert_eq!(client.answer().await.0, 200);
    assert_eq!(client.rest().await, "");
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"head\"} 1"));
}

#[tokio::test]
async fn the_socket_tells_the_service_who_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new()
        .permissions(private)
        .tempdir()
        .unwrap();
    let path = directory.path().join("hooklane.sock");
    let nowhere = "127.0.0.1:0".parse().unwrap();
    let mut edge = Edge::on(Listener::socket(&path).unwrap(), nowhere, patient());
    let mut client = Client(UnixStream::connect(&path).await.unwrap());
    let (_, answer) = client.ask(post("/who", b"")).await;
    let user = rustix::process::geteuid().as_raw();
    assert!(answer.ends_with(&format!("\"User({user})\"")), "{answer}");
    edge.ask_to_stop();
    edge.stopped().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn running_out_of_files_pauses_accepting_and_no_more() {
    let door = Door::new(
        Entrance::default(),
        patient(),
        Metrics::new(),
        watch::channel(false).1,
    );
    let mut is_failing = false;
    let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
    door.survive(&gone, &mut is_failing).await;
    assert!(!is_failing);
    let no_files = io::Error::from_raw_os_error(24);
    let began = Instant::now();
    door.survive(&no_files, &mut is_failing).await;
    assert!(is_failing);
    assert!(began.elapsed() >= ACCEPT_PAUSE);
    assert_eq!(door.metrics.accept_errors.get(), 2);
}

const THIS_MACHINE: &str = "127.0.0.0/8";

/// A door that trusts proxies at these addresses.
async fn behind(trusted: &str, proxy_protocol: bool, limits: Limits) -> Edge {
    let entrance = Entrance {
        trusted: trusted.parse().unwrap(),
        proxy_protocol,
        certificate: None,
    };
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    Edge::behind(entrance, listener, address, limits)
}

const WHO: &str = "GET /who HTTP/1.1\r\nhost: x\r\n";

#[tokio::test]
async fn the_sender_is_the_one_that_a_trusted_proxy_names_and_nobody_else_names_one() {
    let edge = behind(THIS_MACHINE, false, patient()).await;
    let ask = async |headers: &str| {
        let (status, answer) = edge
            .connect()
            .await
            .ask(format!("{WHO}{headers}\r\n"))
            .await;
        (status, answer)
    };
    let (_, answer) = ask("x-forwarded-for: 6.6.6.6, 192.0.2.1\r\n").await;
    assert!(answer.ends_with("Behind(192.0.2.1)\""), "{answer}");
    let (_, answer) = ask("forwarded: for=\"[2001:db8::7]:1\"\r\n").await;
    assert!(answer.ends_with("Behind(2001:db8::7)\""), "{answer}");
    let (_, answer) = ask("").await;
    assert!(answer.contains("Address(127.0.0.1:"), "{answer}");
    let (status, answer) = ask("x-forwarded-for: 192.0.2.1, nobody\r\n").await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("\"code\":\"malformed\""), "{answer}");

    let stranger = behind("10.0.0.0/8", false, patient()).await;
    let mut client = stranger.connect().await;
    for header in [
        "x-forwarded-for: 192.0.2.1",
        "forwarded: for=192.0.2.1",
        "x-forwarded-for: nobody",
    ] {
        let (status, answer) = client.ask(format!("{WHO}{header}\r\n\r\n")).await;
        assert_eq!(status, 200);
        assert!(answer.contains("Address(127.0.0.1:"), "{header}: {answer}");
    }
}

#[tokio::test]
async fn a_sender_behind_a_proxy_has_so_many_requests_at_once_and_others_have_theirs() {
    let limits = Limits {
        per_address_max: 2,
        ..patient()
    };
    let mut edge = behind(THIS_MACHINE, false, limits).await;
    let wait = |sender: &str| {
        format!("GET /wait HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {sender}\r\n\r\n")
    };
    let mut waiting = Vec::new();
    for n in 1..=2 {
        let mut client = edge.connect().await;
        client.send(wait("192.0.2.1")).await;
        edge.arrived(n).await;
        waiting.push(client);
    }
    let mut third = edge.connect().await;
    let (status, answer) = third.ask(wait("192.0.2.1")).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("too_many_connections"), "{answer}");
    assert!(edge.counted("hooklane_connections_refused_total{reason=\"address\"} 1"));
    third.send(wait("192.0.2.2")).await;
    edge.arrived(3).await;
    edge.gate.add_permits(3);
    for client in waiting.iter_mut().chain([&mut third]) {
        assert_eq!(client.answer().await.0, 200);
    }
    // Answered requests no longer count.
    edge.gate.add_permits(1);
    assert_eq!(third.ask(wait("192.0.2.1")).await.0, 200);
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_names_the_client_for_all_requests_of_its_connection() {
    let edge = behind(THIS_MACHINE, true, patient()).await;
    let ask = format!("{WHO}\r\n");
    let mut client = edge.connect().await;
    let line = "PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n";
    let (_, answer) = client.ask(format!("{line}{ask}")).await;
    assert!(answer.ends_with("Behind(192.0.2.1)\""), "{answer}");
    let (_, answer) = client.ask(&ask).await;
    assert!(answer.ends_with("Behind(192.0.2.1)\""), "{answer}");
    // The client itself is no trusted proxy.
    let claim = format!("{WHO}x-forwarded-for: 6.6.6.6\r\n\r\n");
    let (_, answer) = client.ask(claim).await;
    assert!(answer.ends_with("Behind(192.0.2.1)\""), "{answer}");

    let mut binary =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x12\x34\0\x50".to_vec();
    binary.extend(ask.as_bytes());
    let mut slow = edge.connect().await;
    for byte in binary {
        slow.send([byte]).await;
    }
    let (_, answer) = slow.answer().await;
    assert!(answer.ends_with("Behind(192.0.2.7)\""), "{answer}");

    let mut own = edge.connect().await;
    let (_, answer) = own.ask(format!("PROXY UNKNOWN\r\n{ask}")).await;
    assert!(answer.contains("Address(127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn a_proxy_without_its_header_and_a_stranger_with_one_are_refused() {
    let edge = behind(THIS_MACHINE, true, patient()).await;
    let mut without = edge.connect().await;
    without.send(format!("{WHO}\r\n")).await;
    let answer = without.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("proxy_header"), "{answer}");
    assert!(edge.counted("hooklane_connections_refused_total{reason=\"proxy_header\"} 1"));
    let long = format!("PROXY {}", "x".repeat(200));
    let mut endless = edge.connect().await;
    endless.send(long).await;
    assert!(endless.rest().await.starts_with("HTTP/1.1 400"));

    let stranger = behind("10.0.0.0/8", true, patient()).await;
    let mut client = stranger.connect().await;
    let (status, answer) = client.ask(format!("{WHO}\r\n")).await;
    assert_eq!(status, 200);
    assert!(answer.contains("Address(127.0.0.1:"), "{answer}");
    let mut forger = stranger.connect().await;
    forger
        .send(format!("PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n{WHO}\r\n"))
        .await;
    let answer = forger.rest().await;
    assert!(
        !answer.contains("192.0.2.1") && !answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_header_that_does_not_come_ends_its_connection_in_time() {
    let limits = Limits {
        handshake: SHORT,
        ..patient()
    };
    let edge = behind(THIS_MACHINE, true, limits).await;
    for sent in ["", "PROXY TCP4 192.0.2.1", "\r\n\r\n\0\r\nQUIT\n\u{21}"] {
        let mut client = edge.connect().await;
        client.send(sent).await;
        assert_eq!(client.rest().await, "");
    }
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"handshake\"} 3"));
    edge.closed_all_but(0).await;
}

/// A door that speaks TLS, and the files of its certificate.
async fn secured(limits: Limits) -> (Edge, tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = Files {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let entrance = Entrance {
        certificate: Some(Arc::new(Certificate::load(files).await.unwrap())),
        ..Entrance::default()
    };
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().unwrap();
    (Edge::behind(entrance, listener, address, limits), dir)
}

/// The beginning of a ClientHello, whose rest never comes.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// A TLS client that trusts the certificate in a file.
async fn client(
    edge: &Edge,
    dir: &tempfile::TempDir,
) -> Client<tokio_rustls::client::TlsStream<TcpStream>> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(dir.path().join("cert.pem")).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    Client(connector.connect(name, stream).await.unwrap())
}

#[tokio::test]
async fn over_tls_requests_are_answered_as_without_it() {
    let (edge, dir) = secured(patient()).await;
    let mut client = client(&edge, &dir).await;
    let (status, answer) = client
        .ask("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        .await;
    assert_eq!(status, 200);
    assert!(answer.ends_with('3'), "{answer}");
    client
        .send("GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(client.rest().await.len() > 64_000_000);
    edge.closed_all_but(0).await;
    assert_eq!(edge.metrics.connections_panicked.get(), 0);
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_in_time_and_stops_nobody() {
    let limits = Limits {
        handshake: SHORT,
        ..patient()
    };
    let (edge, dir) = secured(limits).await;
    let mut hanging = Vec::new();
    for sent in [&b""[..], HELLO, &HELLO[..1]] {
        let mut client = edge.connect().await;
        client.send(sent).await;
        hanging.push(client);
    }
    let mut good = client(&edge, &dir).await;
    assert_eq!(good.ask(format!("{WHO}\r\n")).await.0, 200);
    for mut client in hanging {
        assert_eq!(client.rest().await, "");
    }
    assert!(edge.counted("hooklane_connections_timed_out_total{waiting_for=\"handshake\"} 3"));
    edge.closed_all_but(1).await;
    let mut plain = edge.connect().await;
    plain.send(format!("{WHO}\r\n")).await;
    let answer = plain.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("tls_required"),
        "{answer}"
    );
    assert!(edge.counted("hooklane_connections_refused_total{reason=\"plain_http\"} 1"));
}

#[tokio::test]
async fn handshakes_that_hang_count_as_connections_and_make_room_for_others() {
    let limits = Limits {
        connections_max: 16,
        ..patient()
    };
    let (mut edge, dir) = secured(limits).await;
    let mut hanging = Vec::new();
    for _ in 0..40 {
        let mut client = edge.connect().await;
        client.send(HELLO).await;
        hanging.push(client);
    }
    edge.accepted(40).await;
    assert!(
        edge.metrics.connections.get() <= 8,
        "strangers have half of the places"
    );
    let mut good = client(&edge, &dir).await;
    assert_eq!(good.ask(format!("{WHO}\r\n")).await.0, 200);
    // Stopping waits for none of them.
    edge.ask_to_stop();
    edge.stopped().await;
}

#[tokio::test]
async fn hostile_first_bytes_end_their_own_connections() {
    let limits = Limits {
        handshake: Duration::from_secs(5),
        ..patient()
    };
    let (edge, dir) = secured(limits).await;
    let good = [hostile::hello(), HELLO.to_vec(), WHO.as_bytes().to_vec()];
    let mut mutation = crate::mutation::Mutation::seeded(5);
    for _ in 0..300 {
        let mut client = edge.connect().await;
        let _ = client.0.write_all(&mutation.of(&good)).await;
        let _ = client.0.shutdown().await;
    }
    edge.accepted(300).await;
    edge.closed_all_but(0).await;
    let mut good = client(&edge, &dir).await;
    assert_eq!(good.ask(format!("{WHO}\r\n")).await.0, 200);
    assert_eq!(edge.metrics.connections_panicked.get(), 0);
}
