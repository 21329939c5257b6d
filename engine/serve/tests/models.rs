//! Several models on one port: which of them a request means, and that none is shut out by the load of another.

mod common;

use std::io::Write;

use common::{Running, parse, post, read, serve, serve_several, serve_several_gated, settings};
use paraloom_serve::Settings;
use serde_json::{Value, json};

/// Status and JSON of the answer to a body of a media type.
fn ask(server: &Running, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let (status, text) = parse(&server.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )));
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

const JSON: &str = "application/json";

#[test]
fn a_request_chooses_its_model() {
    let server = serve_several(settings());
    let rows = r#""rows": [{"text": "a"}]"#;
    for (path, kind, body, expected) in [
        ("/v1/rows", JSON, format!("{{{rows}}}"), "A"),
        ("/v1/rows", JSON, format!("{{{rows}, \"model\": null}}"), "A"),
        ("/v1/rows", JSON, format!("{{{rows}, \"model\": \"louder\"}}"), "A!"),
        ("/v1/rows?model=loudest", JSON, format!("{{{rows}}}"), "A!!"),
        ("/v1/rows?model=loudest", "text/csv", "text\na\n".to_owned(), "A!!"),
        ("/v1/rows?model=louder", "application/x-ndjson", r#"{"text": "a"}"#.to_owned(), "A!"),
        // Parameters are those of the model that is asked.
        ("/v1/rows?model=louder&mark=?%20", "text/csv", "text\na\n".to_owned(), "A? "),
    ] {
        let (status, answer) = ask(&server, path, kind, &body);
        assert_eq!((status, &answer["rows"][0]["loud"]), (200, &json!(expected)), "{path} {body}");
    }
    for (path, body, expected) in [
        ("/v1/completions", json!({"prompt": "a"}), "A"),
        ("/v1/completions", json!({"prompt": "a", "model": "louder"}), "A!"),
        ("/", json!({"inputs": "a"}), "A"),
        ("/", json!({"inputs": "a", "model": "loudest"}), "A!!"),
        ("/models/louder", json!({"inputs": "a"}), "A!"),
        ("/generate_stream", json!({"inputs": "a", "model": "louder"}), "A!"),
    ] {
        let (status, answer) = ask(&server, path, JSON, &body.to_string());
        assert_eq!(status, 200, "{path} {body}: {answer}");
        let text = match (&answer["choices"][0]["text"], &answer[0]["generated_text"]) {
            (Value::String(text), _) | (_, Value::String(text)) => text.clone(),
            _ => answer.as_str().expect("a stream").to_owned(),
        };
        let is_found = text == expected || text.contains(&format!("\"text\":\"{expected}\""));
        assert!(is_found, "{path} {body}: {text}");
    }
    assert_eq!(
        ask(&server, "/v1/completions", JSON, r#"{"prompt": "a", "model": "louder"}"#).1["model"],
        "louder"
    );
}

#[test]
fn a_model_that_is_not_there_is_404_with_those_that_are() {
    let server = serve_several(settings());
    let said = "there is no model \"gpt-4\"; this server has `loud`, `louder`, `loudest`";
    for (path, body) in [
        ("/v1/rows", json!({"rows": [{"text": "a"}], "model": "gpt-4"})),
        ("/v1/rows?model=gpt-4", json!({"rows": [{"text": "a"}]})),
        ("/v1/completions", json!({"prompt": "a", "model": "gpt-4"})),
        ("/", json!({"inputs": "a", "model": "gpt-4"})),
        ("/models/gpt-4", json!({"inputs": "a"})),
    ] {
        let (status, answer) = ask(&server, path, JSON, &body.to_string());
        let error = json!({"code": "model_not_found", "message": said, "param": "model",
                           "type": "invalid_request_error"});
        assert_eq!((status, &answer["error"]), (404, &error), "{path}");
    }
    assert_eq!(server.get("/v1/models/gpt-4").0, 404);
    assert_eq!(server.get("/v1/info?model=gpt-4").0, 404);
    for (path, body, said) in [
        ("/v1/rows", json!({"rows": [{"text": "a"}], "model": 1}), "`model` is the name"),
        (
            "/v1/rows?model=loud",
            json!({"rows": [{"text": "a"}], "model": "loud"}),
            "`model` is given twice",
        ),
        ("/v1/rows?model=loud&model=loud", json!({}), "\"model\" is given twice"),
    ] {
        let (status, answer) = ask(&server, path, JSON, &body.to_string());
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.starts_with(said), "{path} {body}: {answer}");
    }
}

#[test]
fn the_server_tells_its_models() {
    let server = serve_several(settings());
    let get = |path: &str| -> Value { serde_json::from_str(&server.get(path).1).expect("JSON") };
    let ids = get("/v1/models");
    let ids = ids["data"].as_array().expect("a list").iter().map(|card| card["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ["loud", "louder", "loudest"]);
    assert_eq!(get("/v1/models/louder")["id"], "louder");
    let info = get("/v1/info?model=louder");
    assert_eq!(
        (&info["model"], &info["models"]),
        (&json!("louder"), &json!(["loud", "louder", "loudest"]))
    );
    assert_eq!(get("/v1/info")["model"], "loud");
    let document = get("/openapi.json");
    let schema = |path: &str| {
        document["paths"][path]["post"]["requestBody"]["content"][JSON]["schema"]["properties"]
            ["model"]["enum"]
            .clone()
    };
    for path in ["/v1/rows", "/", "/v1/completions"] {
        assert_eq!(schema(path), json!(["loud", "louder", "loudest"]), "{path}");
    }
    assert_eq!(document["paths"]["/v1/rows"]["post"]["parameters"][0]["in"], "query");
    server.rows(r#"{"rows": [{"text": "a"}], "model": "louder"}"#);
    let metrics = server.get("/metrics").1;
    for line in [
        "paraloom_rows_total{direction=\"in\",model=\"louder\"} 1",
        "paraloom_rows_total{direction=\"in\",model=\"loud\"} 0",
        "paraloom_batch_rows_count{model=\"louder\"} 1",
        "paraloom_waiting_rows{model=\"loudest\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

/// A server of one model says of itself what it said before there could be several.
#[test]
fn of_one_model_there_is_nothing_to_choose() {
    let server = serve(settings());
    let answer = server.rows(r#"{"rows": [{"text": "a"}]}"#);
    assert_eq!(server.rows(r#"{"rows": [{"text": "a"}], "model": "loud"}"#), answer);
    assert_eq!(server.rows(r#"{"rows": [{"text": "a"}], "model": "other"}"#).0, 404);
    // Where a hub would have it, any name will do.
    assert_eq!(ask(&server, "/models/any/name", JSON, r#"{"inputs": "a"}"#).0, 200);
    for path in ["/", "/v1/info", "/metrics"] {
        let text = server.get(path).1;
        assert!(!text.contains("model=\"") && !text.contains("\"model\""), "{path}: {text}");
    }
}

/// Waits until the metrics have a line.
fn wait_for(server: &Running, line: &str) {
    for _ in 0..1000 {
        if server.get("/metrics").1.lines().any(|found| found == line) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{line}: {}", server.get("/metrics").1);
}

/// One model is busy and its clients fill what they may of the queue; a request for another one is answered.
#[test]
fn the_load_of_one_model_leaves_room_for_others() {
    let (server, open) =
        serve_several_gated(Settings { queue: 12, max_batch_rows: 1, ..settings() });
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let body = format!(r#"{{"rows": [{{"text": "{number}"}}], "model": "loud"}}"#);
                let mut stream = server.connect();
                stream.write_all(post(&body).as_bytes()).expect("it listens");
                stream
            })
            .collect();
        // Two of twelve rows are kept for each of the others.
        wait_for(&server, "paraloom_waiting_rows{model=\"loud\"} 8");
        wait_for(&server, "paraloom_requests_total{path=\"/v1/rows\",code=\"429\"} 4");
        let other = scope.spawn(|| server.rows(r#"{"rows": [{"text": "a"}], "model": "louder"}"#));
        wait_for(&server, "paraloom_waiting_rows{model=\"louder\"} 1");
        // Its batch comes after the one of the first that is being mapped.
        open.send(()).expect("it runs");
        let (status, body) = other.join().expect("an answer");
        assert!(status == 200 && body.contains("\"A!\""), "{body}");
        (0..12).for_each(|_| open.send(()).expect("it runs"));
        let statuses: Vec<_> = clients.into_iter().map(|client| parse(&read(client)).0).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 8, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 4, "{statuses:?}");
    });
}

#[test]
fn the_page_compares_without_scripts() {
    let server = serve_several(settings());
    let (_, page) = server.get("/");
    assert_eq!(page.matches("type=\"checkbox\" name=\"model\"").count(), 3, "{page}");
    let form = |body: &str| {
        let request = post(body).replace("/v1/rows", "/").replace("json", "x-www-form-urlencoded");
        parse(&server.send(request))
    };
    let (status, page) = form("text=a+b&model=louder&model=loud");
    assert_eq!(status, 200);
    assert!(page.contains("<bdi>A B</bdi>") && page.contains("<bdi>A B!</bdi>"), "{page}");
    assert!(!page.contains("A B!!"), "{page}");
    // One that fails does not hide what the others have.
    let (status, page) = form("text=fail&model=louder");
    assert!(status == 500 && page.contains("it cannot be said louder"), "{page}");
}
