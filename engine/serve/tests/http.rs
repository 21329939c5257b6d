//! What the server answers: to what it is for, and to what it is not.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{Running, parse, post, read, serve, serve_gated, settings};
use paraloom_serve::{ServeError, Server, Settings};

/// Waits until the metrics say this.
fn wait_for(server: &Running, line: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while !server.get("/metrics").1.lines().any(|found| found == line) {
        assert!(Instant::now() < until, "no {line:?} in {}", server.get("/metrics").1);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the first batch is being mapped: what comes before that joins it.
fn wait_for_a_batch(server: &Running) {
    let until = Instant::now() + Duration::from_secs(30);
    while server.batches.lock().expect("nobody panics").is_empty() {
        assert!(Instant::now() < until, "no batch is begun");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn rows_go_in_and_come_back() {
    let server = serve(settings());
    let (status, body) = server
        .rows(r#"{"rows": [{"text": "profit rose", "times": 2}, {"_id": "b", "text": null}]}"#);
    assert_eq!(status, 200, "{body}");
    insta::assert_snapshot!(body);
    // The same again gives the same, ids included.
    let again = server
        .rows(r#"{"rows": [{"text": "profit rose", "times": 2}, {"_id": "b", "text": null}]}"#);
    assert_eq!(again, (200, body));
}

#[test]
fn equal_rows_of_one_request_are_told_apart() {
    let server = serve(settings());
    let (_, body) = server.rows(r#"{"rows": [{"text": "a"}, {"text": "a"}, {"text": "b"}]}"#);
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let ids: Vec<_> =
        body["rows"].as_array().expect("rows").iter().map(|row| &row["_id"]).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

#[test]
fn what_is_wrong_is_said() {
    let server = serve(settings());
    let mut said = String::new();
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    let many = format!(r#"{{"rows": [{}]}}"#, vec![r#"{"text": "a"}"#; 129].join(","));
    let long = format!(r#"{{"rows": [{{"text": "{}"}}]}}"#, "a".repeat(600_000));
    for body in [
        "",
        "nonsense",
        "[]",
        r#"[[{"text": "a"}]]"#,
        "{}",
        r#"{"rows": []}"#,
        r#"{"rows": 1}"#,
        r#"{"rows": [1]}"#,
        r#"{"rows": [], "seed": 1}"#,
        r#"{"rows": [{"txt": "a"}]}"#,
        r#"{"rows": [{"text": "a"}, {"text": 1}]}"#,
        r#"{"rows": [{"times": "many"}]}"#,
        r#"{"rows": [{"_id": 1}]}"#,
        r#"{"rows": [{"_id": "a"}, {"_id": "a"}]}"#,
        r#"{"rows": [{"text": "\ud800"}]}"#,
        r#"{"rows": [{"text": "fail"}]}"#,
        &many,
        &long,
        &deep,
    ] {
        let (status, answer) = server.rows(body);
        let shown: String = body.chars().take(50).collect();
        said.push_str(&format!("{shown}\n  {status} {answer}\n"));
    }
    insta::assert_snapshot!(said);
}

/// Status, and the code of a problem.
fn outcome(answer: &str) -> String {
    let (status, body) = parse(answer);
    let code = serde_json::from_str::<serde_json::Value>(&body).unwrap_or_default();
    let code = code["error"]["code"].as_str().unwrap_or("-").to_owned();
    format!("{status} {code}")
}

#[test]
fn odd_requests() {
    let server = serve(settings());
    let body = r#"{"rows": [{"text": "a"}]}"#;
    let good = post(body);
    let json = "Content-Type: application/json";
    let with = |header: &str| good.replace(json, &format!("{json}\r\n{header}"));
    let requests = [
        ("good", good.clone()),
        ("another content type", good.replace(json, "Content-Type: text/plain")),
        ("no content type", good.replace(json, "X: y")),
        ("parameters of the type", good.replace(json, &format!("{json}; charset=utf-8"))),
        ("another host", good.replace("Host: localhost", "Host: evil.example")),
        ("a host with a port", good.replace("Host: localhost", "Host: LOCALHOST:8080")),
        ("no host", good.replace("Host: localhost", "X: y")),
        ("another site", with("Sec-Fetch-Site: cross-site")),
        ("another origin", with("Origin: http://evil.example")),
        ("the same origin", with("Origin: http://localhost")),
        ("another method", good.replace("POST", "PUT")),
        ("another method of a health check", good.replace("/v1/rows", "/livez")),
        ("another path", good.replace("/v1/rows", "/v2/rows")),
        ("out of the root", good.replace("/v1/rows", "/../../etc/passwd")),
        ("two lengths", with("Transfer-Encoding: chunked")),
        ("no UTF-8", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
        ("200 headers", with("X: y\r\n".repeat(200).trim_end())),
        ("a long header", with(&format!("X: {}", "y".repeat(100_000)))),
        ("a form", good.replace("/v1/rows", "/")),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".to_owned()),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0")),
        ("HTTP/0.9", "GET /livez\r\n".to_owned()),
        ("HTTP/3.0", good.replace("HTTP/1.1", "HTTP/3.0")),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{7c}\u{3}\u{3}".to_owned()),
    ];
    let mut said = String::new();
    for (name, request) in requests {
        said.push_str(&format!("{name}: {}\n", outcome(&server.send(request))));
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_token_opens_the_door() {
    let token = Some("s3cret".to_owned());
    let server = serve(Settings { token, ..settings() });
    let good = post(r#"{"rows": [{"text": "a"}]}"#).replace("Host: localhost", "Host: any.example");
    let with = |value: &str| {
        let header = format!("Host: any.example\r\nAuthorization: {value}");
        outcome(&server.send(good.replace("Host: any.example", &header)))
    };
    assert_eq!(outcome(&server.send(&good)), "401 unauthorized");
    for wrong in
        ["Bearer s3cre", "Bearer s3cret2", "Bearer", "s3cret", "Basic !!!", "Basic czNjcmV0"]
    {
        assert_eq!(with(wrong), "401 unauthorized", "{wrong}");
    }
    assert_eq!(with("Bearer s3cret"), "200 -");
    // user:s3cret
    assert_eq!(with("Basic dXNlcjpzM2NyZXQ="), "200 -");
    // Whoever only wants to know whether it lives need not have it.
    assert_eq!(server.get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/metrics").0, 401);
    assert!(server.send(&good).contains("www-authenticate: Basic"));
}

#[test]
fn nobody_opens_it_to_all_by_mistake() {
    let bind = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = Server::bind(Settings { bind, ..settings() });
    assert!(matches!(refused, Err(ServeError::Open(_))), "{refused:?}");
    let taken = serve(settings());
    let refused = Server::bind(Settings { bind: taken.address, ..settings() });
    assert!(matches!(refused, Err(ServeError::Bind { .. })), "{refused:?}");
}

#[test]
fn what_waits_is_mapped_together() {
    let (server, gate) = serve_gated(settings());
    let bodies = [
        r#"{"rows": [{"text": "a"}]}"#,
        r#"{"rows": [{"text": "b", "times": 3}, {"text": "c"}]}"#,
        // Shares a row with the one before.
        r#"{"rows": [{"text": "c"}, {"text": "d"}]}"#,
        r#"{"rows": [{"text": "fail"}]}"#,
    ];
    let answers = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for (at, body) in bodies.into_iter().enumerate() {
            let server = &server;
            clients.push(scope.spawn(move || server.rows(body)));
            wait_for(server, &format!("paraloom_waiting_rows {}", [1, 3, 5, 6][at]));
            wait_for_a_batch(server);
        }
        // The first alone, the others together, and as that fails one by one.
        (0..5).for_each(|_| gate.send(()).expect("it waits"));
        clients.into_iter().map(|client| client.join().expect("an answer")).collect::<Vec<_>>()
    });
    assert_eq!(*server.batches.lock().expect("nobody panics"), [1, 4, 2, 2, 1]);
    let texts = |answer: &(u16, String)| {
        let body: serde_json::Value = serde_json::from_str(&answer.1).expect("JSON");
        let rows = body["rows"].as_array().cloned().unwrap_or_default();
        let loud: Vec<_> = rows.iter().map(|row| row["loud"].as_str().unwrap_or("-")).collect();
        format!("{} {}", answer.0, loud.join(" "))
    };
    let texts: Vec<_> = answers.iter().map(texts).collect();
    assert_eq!(texts, ["200 A", "200 B B B C", "200 C D", "500 "]);
}

#[test]
fn too_many_are_asked_to_come_again() {
    let (server, gate) = serve_gated(Settings { queue: 4, ..settings() });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.rows(r#"{"rows": [{"text": "a"}, {"text": "b"}]}"#));
        wait_for(&server, "paraloom_waiting_rows 2");
        let busy = server.send(post(r#"{"rows": [{"text": "c"}, {"text": "d"}, {"text": "e"}]}"#));
        assert_eq!(outcome(&busy), "429 busy");
        assert!(busy.contains("retry-after: 1"), "{busy}");
        // It lives, and is ready for less.
        assert_eq!(server.get("/readyz").0, 200);
        let second = scope.spawn(|| server.rows(r#"{"rows": [{"text": "c"}, {"text": "d"}]}"#));
        wait_for(&server, "paraloom_waiting_rows 4");
        (0..2).for_each(|_| gate.send(()).expect("it waits"));
        assert_eq!(first.join().expect("an answer").0, 200);
        assert_eq!(second.join().expect("an answer").0, 200);
    });
    wait_for(&server, "paraloom_waiting_rows 0");
}

#[test]
fn who_waits_too_long_is_told_and_who_has_gone_is_forgotten() {
    let (server, gate) =
        serve_gated(Settings { timeout: Duration::from_millis(200), ..settings() });
    let late = server.send(post(r#"{"rows": [{"text": "a"}]}"#));
    assert_eq!(outcome(&late), "504 timeout");
    // This one waits behind it, and nobody waits for that one either.
    let late = server.send(post(r#"{"rows": [{"text": "b"}]}"#));
    assert_eq!(outcome(&late), "504 timeout");
    gate.send(()).expect("it waits");
    wait_for(&server, "paraloom_waiting_rows 0");
    assert_eq!(*server.batches.lock().expect("nobody panics"), [1]);
}

#[test]
fn what_was_asked_is_answered_before_the_end() {
    let (server, gate) = serve_gated(settings());
    let mut asked = server.connect();
    asked.write_all(post(r#"{"rows": [{"text": "a"}]}"#).as_bytes()).expect("it listens");
    wait_for(&server, "paraloom_waiting_rows 1");
    server.stop();
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < until, "it still listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    gate.send(()).expect("it waits");
    assert_eq!(parse(&read(asked)).0, 200);
    assert!(server.end().is_ok());
}

#[test]
fn the_end_comes_even_if_a_client_waits() {
    let (server, gate) = serve_gated(Settings { drain: Duration::from_millis(100), ..settings() });
    let mut asked = server.connect();
    asked.write_all(post(r#"{"rows": [{"text": "a"}]}"#).as_bytes()).expect("it listens");
    wait_for(&server, "paraloom_waiting_rows 1");
    // The stub does not look whether it should give up.
    server.stop();
    assert_eq!(parse(&read(asked)).0, 0);
    drop(gate);
    assert!(matches!(server.end(), Err(ServeError::Unanswered)));
}

/// Half a head, a head that drips, and nothing at all.
#[test]
fn slow_clients_are_let_go() {
    let server = serve(settings());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for sent in ["", "GET / HTTP/1.1\r\nHost: loc"] {
            scope.spawn(|| {
                let mut stream = server.connect();
                stream.write_all(sent.as_bytes()).expect("it listens");
                read(stream);
            });
        }
        scope.spawn(|| {
            let mut stream = server.connect();
            let reader = stream.try_clone().expect("a copy");
            let reads = scope.spawn(|| read(reader));
            while !reads.is_finished() {
                // Fails once the server has closed.
                let _ = stream.write_all(b"X");
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        scope.spawn(|| {
            let mut stream = server.connect();
            let body = post(r#"{"rows": [{"text": "a"}]}"#);
            stream.write_all(&body.as_bytes()[..body.len() - 5]).expect("it listens");
            assert_eq!(outcome(&read(stream)), "408 timeout");
        });
    });
    // 5 s for a head and 10 for a body; a machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}

#[test]
fn it_says_what_goes_in_and_what_comes_out() {
    let server = serve(settings());
    insta::assert_snapshot!(server.get("/v1/info").1);
    let (status, metrics) = server.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("paraloom_build_info{version=\"1.2.3\"} 1"), "{metrics}");
    assert!(
        metrics.contains("paraloom_requests_total{path=\"/v1/info\",code=\"200\"} 1"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn a_connection_takes_several_requests() {
    let server = serve(settings());
    let keep = post(r#"{"rows": [{"text": "a"}]}"#).replace("Connection: close\r\n", "");
    let both = format!("{keep}{}", post(r#"{"rows": [{"text": "b"}]}"#));
    let answers = server.send(both);
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    assert!(answers.contains(r#""loud":"A""#) && answers.contains(r#""loud":"B""#), "{answers}");
}

#[test]
fn a_request_may_set_parameters() {
    let (server, gate) = serve_gated(settings());
    let bodies = [
        r#"{"rows": [{"text": "a"}]}"#,
        r#"{"rows": [{"text": "b"}], "parameters": {"mark": "!"}}"#,
        r#"{"rows": [{"text": "c"}], "parameters": {}}"#,
        r#"{"rows": [{"text": "d"}], "parameters": {"mark": "!"}}"#,
    ];
    let answers = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for (at, body) in bodies.into_iter().enumerate() {
            let server = &server;
            clients.push(scope.spawn(move || server.rows(body)));
            wait_for(server, &format!("paraloom_waiting_rows {}", at + 1));
            wait_for_a_batch(server);
        }
        (0..3).for_each(|_| gate.send(()).expect("it waits"));
        clients.into_iter().map(|client| client.join().expect("an answer")).collect::<Vec<_>>()
    });
    // Those that ask for the same are mapped together.
    assert_eq!(*server.batches.lock().expect("nobody panics"), [1, 2, 1]);
    let loud = |answer: &(u16, String)| {
        let body: serde_json::Value = serde_json::from_str(&answer.1).expect("JSON");
        body["rows"][0]["loud"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(answers.iter().map(loud).collect::<Vec<_>>(), ["A", "B!", "C", "D!"]);
    drop(gate);
    let server = serve(settings());
    for (parameters, said) in [
        (r#"{"mrak": "!"}"#, r#"there is no parameter \"mrak\"; there are mark"#),
        ("[1]", "`parameters` is an object"),
        (r#"{"mark": "?"}"#, "node `loud`: it asks nothing"),
    ] {
        let body = format!(r#"{{"rows": [{{"text": "a"}}], "parameters": {parameters}}}"#);
        let (status, answer) = server.rows(&body);
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(said), "{answer}");
    }
}

/// While the queue is full, most requests are refused before they are routed; what they get is what the routes give.
#[test]
fn what_is_refused_at_once_is_refused_alike() {
    let (server, open) = serve_gated(Settings { queue: 1, ..settings() });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.rows(r#"{"rows": [{"text": "a"}]}"#));
        wait_for(&server, "paraloom_waiting_rows 1");
        let good = post(r#"{"rows": [{"text": "b"}]}"#);
        let with =
            |header: &str| good.replace("Host: localhost", &format!("Host: localhost\r\n{header}"));
        let said = |request: &str| {
            let answer = server.send(request);
            let is_kept =
                |line: &&str| !line.starts_with("date: ") && !line.starts_with("x-request-id: ");
            let mut lines: Vec<_> = answer.lines().filter(is_kept).map(str::to_owned).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let at_once = said(&good);
        assert!(
            at_once.contains("HTTP/1.1 429 ") && at_once.contains("retry-after: 1"),
            "{at_once}"
        );
        assert_eq!(said(&with("Origin: http://localhost")), at_once);
        assert!(server.send(with("X-Request-Id: mine")).contains("x-request-id: mine"));
        for (request, expected) in [
            (with("Origin: http://evil.example"), "403 cross_site"),
            (good.replace("Host: localhost", "Host: evil.example"), "403 wrong_host"),
            (good.replace("/v1/rows", "/models/any"), "429 busy"),
            (good.replace("/v1/rows", "/v1/info"), "405 method_not_allowed"),
            (good.replace("/v1/rows", "/v2/rows"), "404 not_found"),
        ] {
            assert_eq!(outcome(&server.send(&request)), expected, "{request}");
        }
        wait_for(&server, "paraloom_refused_total{reason=\"busy\"} 4");
        open.send(()).expect("it runs");
        assert_eq!(first.join().expect("an answer").0, 200);
    });
}
