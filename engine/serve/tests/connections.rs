//! Clients that do not behave: they do not read, they do not go, they are too many. Health checks are answered all the while.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Running, parse, post, read, serve, serve_gated, settings};
use paraloom_serve::{RESERVE, Settings};
use rustix::net::sockopt::set_socket_recv_buffer_size;

/// A client with a small buffer that asks many times and does not read.
fn slow_reader(server: &Running, request: &str, times: usize) -> TcpStream {
    let stream = server.connect();
    let _ = set_socket_recv_buffer_size(&stream, 2048);
    let mut writer = stream.try_clone().expect("a copy");
    writer.set_write_timeout(Some(Duration::from_millis(300))).expect("a time");
    let requests = request.repeat(times);
    // The server stops reading at some point.
    let _ = writer.write_all(requests.as_bytes());
    stream
}

/// The slowest of some health checks; all must be answered.
fn health(server: &Running) -> Duration {
    let check = |path: &str| {
        let started = Instant::now();
        assert_eq!(server.get(path), (200, "ok\n".to_owned()));
        started.elapsed()
    };
    (0..5).flat_map(|_| ["/livez", "/readyz"].map(check)).max().unwrap_or_default()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the server has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a mode");
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn connections(server: &Running) -> String {
    let metrics = server.get("/metrics").1;
    let line = metrics.lines().find(|line| line.starts_with("paraloom_connections "));
    line.unwrap_or_default().to_owned()
}

#[test]
fn clients_that_do_not_read_are_let_go() {
    for token in [None, Some("s3cret".to_owned())] {
        let server = serve(Settings { token: token.clone(), ..settings() });
        let ask = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let slow: Vec<_> = (0..8).map(|_| slow_reader(&server, ask, 20_000)).collect();
        let started = Instant::now();
        let slowest = health(&server);
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        if token.is_none() {
            wait_until("they are open", || connections(&server) == "paraloom_connections 1");
            // 10 s without progress; a machine may be busy.
            assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
        }
        // With a token, they are still there; they do not hold up the end.
        assert!(server.end().is_ok());
        assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
        drop(slow);
    }
}

#[test]
fn whoever_waits_for_nothing_makes_room() {
    let server = serve(Settings { max_connections: 8, ..settings() });
    let idle: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .expect("it listens");
            let mut answer = [0; 512];
            assert!(stream.read(&mut answer).expect("an answer") > 0);
            stream
        })
        .collect();
    // The oldest goes, the newest stays.
    assert_eq!(server.rows(r#"{"rows": [{"text": "a"}]}"#).0, 200);
    wait_until("the oldest is closed", || is_closed(&idle[0]));
    assert!(!is_closed(&idle[7]));
}

#[test]
fn stalled_clients_make_room() {
    let server = serve(Settings { max_connections: 4, ..settings() });
    let ask = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let _slow: Vec<_> = (0..4).map(|_| slow_reader(&server, ask, 20_000)).collect();
    let started = Instant::now();
    wait_until("there is room", || server.rows(r#"{"rows": [{"text": "a"}]}"#).0 == 200);
    // Before they are closed for themselves.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn too_many_connections_are_told_and_health_is_answered() {
    let (server, gate) = serve_gated(Settings { max_connections: 2, ..settings() });
    let mut asked: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut asked {
        stream.write_all(post(r#"{"rows": [{"text": "a"}]}"#).as_bytes()).expect("it listens");
    }
    wait_until("the limit is reached", || server.get("/v1/info").0 == 503);
    let answer = server.send("GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (status, body) = parse(&answer);
    assert_eq!(status, 503, "{answer}");
    assert!(body.contains(r#""code":"busy""#), "{body}");
    assert!(answer.contains("connection: close") && answer.contains("retry-after: 1"), "{answer}");
    // The reserve itself is full of those who say nothing.
    let silent: Vec<_> = (0..RESERVE + 8).map(|_| server.connect()).collect();
    let slowest = health(&server);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    drop(silent);
    (0..2).for_each(|_| gate.send(()).expect("it waits"));
    assert!(asked.into_iter().all(|stream| parse(&read(stream)).0 == 200));
}

/// The system drops what does not fit into its queue for the listener, and the client tries again a second later.
#[test]
fn many_may_come_at_once() {
    let server = serve(settings());
    let started = Instant::now();
    let all: Vec<_> = (0..300).map(|_| server.connect()).collect();
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    drop(all);
}

#[test]
fn a_connection_may_wait_for_its_next_request() {
    let keep_alive = Duration::from_millis(300);
    let server = serve(Settings { keep_alive, ..settings() });
    let mut stream = server.connect();
    let ask = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(ask).expect("it listens");
    let started = Instant::now();
    let answers = read(stream);
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert!(started.elapsed() >= keep_alive, "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // Longer than the head of a request may take.
    let server = serve(Settings { keep_alive: Duration::from_mins(1), ..settings() });
    let mut stream = server.connect();
    stream.write_all(ask).expect("it listens");
    std::thread::sleep(Duration::from_secs(6));
    assert!(!is_closed(&stream));
}

/// Between requests nothing is kept of a connection but its socket; what came early belongs to the next request.
#[test]
fn one_connection_serves_many_requests() {
    let server = serve(settings());
    let body = r#"{"rows": [{"text": "a"}]}"#;
    let ask = post(body).replace("Connection: close\r\n", "");
    let last = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // However the requests are cut: one after the other, in one go, within a head, and within a body.
    let all = format!("{ask}{ask}\r\n{ask}{last}");
    let half = ask.len() / 2;
    for cuts in [
        vec![],
        vec![ask.len()],
        vec![half],
        vec![ask.len() + half],
        vec![ask.len() - 3, all.len() - 5],
    ] {
        let mut stream = server.connect();
        let mut from = 0;
        for to in cuts.into_iter().chain([all.len()]) {
            stream.write_all(&all.as_bytes()[from..to]).expect("it listens");
            from = to;
            std::thread::sleep(Duration::from_millis(100));
        }
        let answers = read(stream);
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
        assert!(answers.ends_with("ok\n"), "{answers}");
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_sent() {
    let server = serve(settings());
    for expect in ["", "Expect: 100-continue\r\n"] {
        let started = Instant::now();
        let head = format!(
            "POST /v1/rows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {expect}Content-Length: 9000000\r\n\r\n"
        );
        let answer = server.send(head);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains(r#""code":"too_large""#), "{answer}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
    // It is told although it goes on sending.
    let answer = server.send(post(&" ".repeat(3 << 20)));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn readiness_ends_before_the_listener() {
    let server = serve(Settings { lame_duck: Duration::from_millis(1500), ..settings() });
    assert_eq!(server.get("/readyz").0, 200);
    server.stop();
    wait_until("it is not ready", || server.get("/readyz") == (503, "stopping\n".to_owned()));
    // It still works for those who have not noticed.
    assert_eq!(server.get("/livez").0, 200);
    assert_eq!(server.rows(r#"{"rows": [{"text": "a"}]}"#).0, 200);
    wait_until("it listens", || TcpStream::connect(server.address).is_err());
    assert!(server.end().is_ok());
}

#[test]
fn a_short_request_does_not_wait_for_a_long_one() {
    let (server, gate) = serve_gated(settings());
    let long = vec![r#"{"text": "a"}"#; 100].join(",");
    std::thread::scope(|scope| {
        let waiting = |rows: usize| {
            let line = format!("paraloom_waiting_rows {rows}");
            wait_until(&line, || server.get("/metrics").1.lines().any(|found| found == line));
        };
        let long = scope.spawn(|| server.rows(&format!(r#"{{"rows": [{long}]}}"#)));
        waiting(100);
        let short = scope.spawn(|| server.rows(r#"{"rows": [{"text": "b"}]}"#));
        waiting(101);
        // The first 32 rows, and then some more beside the short request.
        (0..2).for_each(|_| gate.send(()).expect("it waits"));
        assert_eq!(short.join().expect("an answer").0, 200);
        assert!(!long.is_finished());
        for _ in 0..3 {
            // The last of them may not be needed.
            let _ = gate.send(());
        }
        let (status, body) = long.join().expect("an answer");
        assert_eq!((status, body.matches(r#""loud":"A""#).count()), (200, 100));
    });
    let batches = server.batches.lock().expect("nobody panics").clone();
    assert_eq!(batches.iter().sum::<usize>(), 101, "{batches:?}");
    assert!(batches.iter().all(|rows| *rows <= 32), "{batches:?}");
}

#[test]
fn rows_are_bounded_by_their_tokens() {
    let server = serve(Settings { max_batch_tokens: 1000, ..settings() });
    let row = |length: usize| format!(r#"{{"text": "{}"}}"#, "a".repeat(length));
    let (status, body) = server.rows(&format!(r#"{{"rows": [{}, {}]}}"#, row(3), row(1000)));
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("row 2: its texts can have 1001 tokens"), "{body}");
    let many = vec![row(400); 10].join(",");
    let (status, body) = server.rows(&format!(r#"{{"rows": [{many}]}}"#));
    assert_eq!(status, 200, "{body}");
    assert_eq!(*server.batches.lock().expect("nobody panics"), [2; 5]);
}

#[test]
fn a_text_that_was_cut_is_told() {
    let server = serve(settings());
    let (status, body) = server.rows(r#"{"rows": [{"text": "short"}, {"text": "longer"}]}"#);
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let warnings = body["_warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (&warnings[0]["code"], &warnings[0]["output"]),
        (&"truncated".into(), &"rows".into())
    );
    assert_eq!(
        body["rows"][warnings[0]["row"].as_u64().expect("a number") as usize]["text"],
        "longer"
    );
    let (_, body) = server.rows(r#"{"rows": [{"text": "short"}]}"#);
    assert!(!body.contains("_warnings"), "{body}");
}

#[test]
fn requests_have_ids() {
    let server = serve(settings());
    let ask = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let given = server.send(format!("{ask}X-Request-Id: mine-1\r\n\r\n"));
    assert!(given.contains("x-request-id: mine-1\r\n"), "{given}");
    let made = server.send(format!("{ask}\r\n"));
    assert!(made.contains("x-request-id: ") && !made.contains("mine-1"), "{made}");
}
