//! The same rows by other programs' words: texts, CSV, JSON lines, and the description of all that.

mod common;

use common::{Running, parse, serve, settings};
use serde_json::{Value, json};

/// Sends a body of a media type; the whole answer.
fn send(server: &Running, path: &str, kind: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    server.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    ))
}

/// Status and JSON of an answer.
fn ask(server: &Running, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = parse(&send(server, path, "application/json", "", &body.to_string()));
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The message of an error, which has the status 400.
fn refused(server: &Running, path: &str, body: &Value) -> String {
    let (status, answer) = ask(server, path, body);
    assert_eq!(status, 400, "{body}: {answer}");
    answer["error"]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn texts_by_the_words_of_the_hugging_face_api() {
    let server = serve(settings());
    // Clients of other tasks take the text by another name.
    let loud = |text: &str| json!({"generated_text": text, "translation_text": text, "summary_text": text});
    let cases = [
        (json!({"inputs": "a"}), json!([loud("A")])),
        (json!({"inputs": ["a", "b"]}), json!([[loud("A")], [loud("B")]])),
        (json!({"inputs": ["a", "a"]}), json!([[loud("A")], [loud("A")]])),
        (json!({"inputs": "a", "parameters": {"mark": "!"}}), json!([loud("A!")])),
        // What asks for nothing is no reason to refuse.
        (
            json!({"inputs": "a", "stream": false, "options": {"use_cache": true},
                   "parameters": {"details": false, "watermark": false, "stop": [], "seed": null}}),
            json!([loud("A")]),
        ),
    ];
    for path in ["/", "/models/some/name"] {
        for (body, expected) in &cases {
            assert_eq!(ask(&server, path, body), (200, expected.clone()), "{body}");
        }
    }
    for (body, said) in [
        (json!({}), "`inputs` is a text or a list of texts"),
        (json!({"inputs": [1]}), "`inputs` is a text or a list of texts"),
        (json!([]), "send a JSON object"),
        (json!({"inputs": "a", "stream": 1}), "`stream` is true or false"),
        (json!({"inputs": ["a", "b"], "stream": true}), "a stream is of one text"),
        (
            json!({"inputs": "a", "parameters": {"details": true}}),
            "`details` needs `token_scores: true`",
        ),
        (json!({"inputs": "a", "parameters": {"details": 1}}), "`details` is true or false"),
        (
            json!({"inputs": "a", "parameters": {"do_sample": false, "top_p": 0.9}}),
            "`do_sample` is false, and `top_p` is for texts that are drawn at random: send true, or leave `top_p` out",
        ),
        (
            json!({"inputs": "a", "parameters": {"typical_p": 0.5}}),
            "there is no parameter \"typical_p\"",
        ),
        (json!({"inputs": "a", "parameters": {"stop": ["b"]}}), "there is no parameter \"stop\""),
        (json!({"inputs": "a", "parameters": {"do_sample": true}}), "`do_sample` is not something"),
        (json!({"inputs": "a", "parameters": {"seed": 1}}), "there is no parameter \"seed\""),
        (json!({"inputs": "a", "parameters": []}), "`parameters` is an object"),
    ] {
        let message = refused(&server, "/", &body);
        assert!(message.starts_with(said), "{body}: {message}");
    }
}

/// As text-generation-inference sends it: an event a line, each with a token, and the last with the whole text.
#[test]
fn a_text_as_a_stream() {
    let server = serve(settings());
    for (path, body) in [
        ("/", json!({"inputs": "a", "stream": true, "parameters": {"mark": "!"}})),
        (
            "/models/some/name",
            json!({"inputs": ["a"], "stream": true, "parameters": {"mark": "!"}}),
        ),
        ("/generate_stream", json!({"inputs": "a", "parameters": {"mark": "!"}})),
    ] {
        let stream = send(&server, path, "application/json", "", &body.to_string());
        assert!(stream.contains("content-type: text/event-stream"), "{stream}");
        let (status, events) = parse(&stream);
        let event = events.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let event: Value = event.and_then(|event| event.parse().ok()).expect("one event");
        let token = json!({"id": null, "text": "A!", "logprob": null, "special": false});
        let expected = json!({"index": 1, "token": token, "generated_text": "A!", "details": null});
        assert_eq!((status, event), (200, expected), "{path}");
    }
}

#[test]
fn texts_by_the_words_of_openai() {
    let server = serve(settings());
    let (status, models) = parse(
        &server.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    );
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("loud")));
    assert_eq!(server.get("/v1/models/loud").0, 200);
    assert_eq!(server.get("/v1/models/gpt-4").0, 404);
    let choices = |body: Value| {
        let (status, answer) = ask(&server, "/v1/completions", &body);
        assert_eq!(status, 200, "{body}: {answer}");
        assert_eq!(answer["object"], "text_completion");
        let choice = |choice: &Value| {
            let (text, reason) = (&choice["text"], &choice["finish_reason"]);
            format!(
                "{} {} {}",
                choice["index"],
                text.as_str().unwrap_or("-"),
                reason.as_str().unwrap_or("-")
            )
        };
        answer["choices"].as_array().expect("choices").iter().map(choice).collect::<Vec<_>>()
    };
    assert_eq!(choices(json!({"model": "loud", "prompt": "a b"})), ["0 A B stop"]);
    assert_eq!(choices(json!({"prompt": ["a", "b"]})), ["0 A stop", "1 B stop"]);
    assert_eq!(choices(json!({"prompt": "abc", "stop": "C"})), ["0 AB stop"]);
    assert_eq!(choices(json!({"prompt": "abc", "stop": ["B", "A"], "mark": "!"})), ["0  stop"]);
    let nothing = json!({"prompt": "a", "logprobs": null, "echo": false, "best_of": 1, "user": "u",
                         "presence_penalty": 0, "logit_bias": {}, "suffix": null, "stream": false});
    assert_eq!(choices(nothing), ["0 A stop"]);
    let body = json!({"prompt": ["a", "b"], "stream": true}).to_string();
    let stream = send(&server, "/v1/completions", "application/json", "", &body);
    assert!(stream.contains("content-type: text/event-stream"), "{stream}");
    let (_, events) = parse(&stream);
    assert_eq!(events.matches("data: {").count(), 2, "{events}");
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    for (body, said) in [
        (json!({"prompt": [1, 2]}), "`prompt` is a text or a list of texts"),
        (json!({"prompt": "a", "logprobs": 0}), "`logprobs` needs `token_scores: true`"),
        (json!({"prompt": "a", "logprobs": 1}), "`logprobs` is not something"),
        (json!({"prompt": "a", "echo": true}), "`echo` is not something"),
        (json!({"prompt": "a", "best_of": 2}), "`best_of` is not something"),
        (json!({"prompt": "a", "frequency_penalty": 0.1}), "`frequency_penalty` is not something"),
        (json!({"prompt": "a", "stop": [""]}), "`stop` has four texts at most"),
        (json!({"prompt": "a", "stream": 1}), "`stream` is true or false"),
        (json!({"prompt": "a", "n": 2}), "there is no parameter \"candidates\""),
    ] {
        let message = refused(&server, "/v1/completions", &body);
        assert!(message.starts_with(said), "{body}: {message}");
    }
    let (status, answer) =
        ask(&server, "/v1/completions", &json!({"prompt": "a", "model": "gpt-4"}));
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
}

/// Tokens are counted where the stages tell them: a prompt once, however many texts there are of it.
#[test]
fn tokens_are_counted_where_they_are_known() {
    let server = serve(settings());
    let usage = |body: Value| ask(&server, "/v1/completions", &body).1["usage"].clone();
    let tokens = |read: u64, written: u64| json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written});
    assert_eq!(usage(json!({"prompt": "a b"})), tokens(3, 30));
    assert_eq!(usage(json!({"prompt": ["a b", "c"]})), tokens(5, 50));
    assert_eq!(usage(json!({"prompt": ["a b", "untold"]})), Value::Null);
    let events = |options: Value| {
        let body = json!({"prompt": "a", "stream": true, "stream_options": options}).to_string();
        parse(&send(&server, "/v1/completions", "application/json", "", &body)).1
    };
    let last =
        r#""choices":[],"usage":{"prompt_tokens":2,"completion_tokens":20,"total_tokens":22}}"#;
    let told = events(json!({"include_usage": true}));
    assert!(told.ends_with(&format!("{last}\n\ndata: [DONE]\n\n")), "{told}");
    for options in [Value::Null, json!({}), json!({"include_usage": false})] {
        assert!(!events(options).contains("usage"));
    }
}

/// What could be taken in two ways is refused.
#[test]
fn nothing_is_ambiguous() {
    let server = serve(settings());
    let json = "application/json";
    for (path, kind, headers, body, expected) in [
        (
            "/v1/rows",
            json,
            "",
            r#"{"rows": [{"text": "a", "text": "b"}]}"#,
            "400 this is not JSON: \"text\" is there twice",
        ),
        (
            "/v1/rows",
            json,
            "",
            r#"{"rows": [{"text": "a"}], "rows": [{"text": "b"}]}"#,
            "400 this is not JSON: \"rows\" is there twice",
        ),
        (
            "/v1/completions",
            json,
            "",
            r#"{"prompt": "a", "prompt": "b"}"#,
            "400 this is not JSON: \"prompt\" is there twice",
        ),
        (
            "/",
            json,
            "",
            r#"{"inputs": "a", "inputs": "b"}"#,
            "400 this is not JSON: \"inputs\" is there twice",
        ),
        (
            "/v1/rows",
            "application/x-ndjson",
            "",
            "{\"text\": \"a\", \"text\": \"b\"}",
            "400 line 1: this is not JSON: \"text\" is there twice",
        ),
        (
            "/v1/completions?mark=!",
            json,
            "",
            r#"{"prompt": "a"}"#,
            "400 parameters are in the body",
        ),
        ("/?mark=!", json, "", r#"{"inputs": "a"}"#, "400 parameters are in the body"),
        (
            "/v1/rows",
            json,
            "Content-Type: text/csv\r\n",
            "{}",
            "400 the header `Content-Type` is there twice",
        ),
        ("/v1/rows", "text/csv; charset=latin1", "", "text\na\n", "415 texts are in UTF-8"),
        (
            "/v1/rows",
            "text/csv",
            "",
            "text\n\"a\nb\n",
            "400 this is not CSV: line 2: the quote of this cell is never closed",
        ),
    ] {
        let (status, answer) = parse(&send(&server, path, kind, headers, body));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let said = format!("{status} {}", answer["error"]["message"].as_str().unwrap_or_default());
        assert!(said.starts_with(expected), "{path} {kind}: {said}");
    }
    // What editors and shells put before a text is none of it.
    for (kind, body) in [
        (json, "\u{feff}{\"rows\": [{\"text\": \"a\"}]}"),
        ("application/x-ndjson", "\u{feff}{\"text\": \"a\"}"),
    ] {
        assert_eq!(parse(&send(&server, "/v1/rows", kind, "", body)).0, 200, "{kind}");
    }
    // A name that is no UTF-8 is none of ours, and the answer is as all others.
    let (status, answer) = server.get("/v1/models/%FF");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
}

/// What goes out as CSV comes back as it was: a missing value is no empty text.
#[test]
fn rows_of_csv_come_back() {
    let server = serve(settings());
    let csv = "text,times\r\"\",1\r\n,1\n\n\"c \"\"d\"\", e\",\n";
    let accept = "Accept: text/csv\r\n";
    let (status, answer) = parse(&send(&server, "/v1/rows", "text/csv", accept, csv));
    assert_eq!(status, 200, "{answer}");
    let rows = answer.lines().map(|line| line.split_once(',').map_or("", |(_, rest)| rest));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        ["text,times,loud", "\"\",1,\"\"", ",1,", "\"c \"\"d\"\", e\",,\"C \"\"D\"\", E\""]
    );
}

#[test]
fn rows_as_csv_and_as_lines() {
    let server = serve(settings());
    let csv = "text,times\nabc,2\n\"d, e\",\n";
    let answer = send(&server, "/v1/rows", "text/csv", "Accept: text/csv\r\n", csv);
    let (status, body) = parse(&answer);
    assert_eq!(status, 200, "{answer}");
    let mut lines = body.lines();
    assert_eq!(lines.next(), Some("_id,text,times,loud"));
    let rest: Vec<_> =
        lines.map(|line| line.split_once(',').map_or("", |(_, rest)| rest)).collect();
    assert_eq!(rest, ["abc,2,ABC", "abc,2,ABC", "\"d, e\",,\"D, E\""]);
    let lines = "{\"text\": \"abc\"}\n{\"text\": \"longer\"}\n";
    let answer = send(
        &server,
        "/v1/rows?mark=!",
        "application/x-ndjson",
        "Accept: application/x-ndjson\r\n",
        lines,
    );
    assert!(answer.contains("x-paraloom-truncated: 1\r\n"), "{answer}");
    let (_, body) = parse(&answer);
    let loud = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["loud"].clone();
    assert_eq!(body.lines().map(loud).collect::<Vec<_>>(), [json!("ABC!"), json!("LONGER!")]);
    for (path, kind, accept, body, expected) in [
        ("/v1/rows", "text/csv", "", "txt\na\n", "400 there is no column \"txt\""),
        ("/v1/rows", "text/csv", "", "text\n", "400 there are no rows"),
        ("/v1/rows?mark=1", "text/csv", "", "text\na\n", "400 there is no parameter \"mark\""),
        (
            "/v1/rows?output=no",
            "text/csv",
            "",
            "text\na\n",
            "400 there is no output \"no\", only rows",
        ),
        ("/v1/rows?mark=!", "application/json", "", "{}", "400 parameters are in the body"),
        ("/v1/rows", "application/x-ndjson", "", "[1]", "400 line 1 is not a JSON object"),
        ("/v1/rows", "text/csv", "Accept: image/png\r\n", "text\na\n", "406 answers are"),
        ("/v1/rows", "application/xml", "", "<a/>", "415 send the header"),
        (
            "/v1/rows",
            "application/json",
            "Content-Encoding: br\r\n",
            "{}",
            "415 a request is plain",
        ),
    ] {
        let (status, answer) = parse(&send(&server, path, kind, accept, body));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let said = format!("{status} {}", answer["error"]["message"].as_str().unwrap_or_default());
        assert!(said.starts_with(expected), "{path} {kind}: {said}");
    }
}

#[test]
fn the_server_describes_itself() {
    let server = serve(settings());
    let (status, document) = server.get("/openapi.json");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    // All that there is, as the 404 names it.
    let mut paths: Vec<_> = document["paths"].as_object().expect("paths").keys().cloned().collect();
    let (_, missing) = ask(&server, "/nowhere", &json!({}));
    let message = missing["error"]["message"].as_str().expect("a message");
    let mut there: Vec<_> =
        message.split_once("there are ").expect("paths").1.split(", ").collect();
    paths.sort();
    there.sort_unstable();
    assert_eq!(paths, there);
    let in_address = document["paths"]["/v1/rows"]["post"]["parameters"].as_array();
    let names = in_address.into_iter().flatten().map(|parameter| parameter["name"].as_str());
    assert_eq!(names.collect::<Option<Vec<_>>>().expect("names")[..2], ["output", "mark"]);
    let content = |path: &str| {
        &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    };
    let rows = content("/v1/rows");
    let row = &rows["properties"]["rows"]["items"]["properties"];
    assert_eq!(row["times"], json!({"type": ["integer", "null"]}));
    assert_eq!(rows["properties"]["parameters"]["properties"]["mark"]["type"], "string");
    assert_eq!(content("/v1/completions")["properties"]["model"], json!({"enum": ["loud"]}));
    let (status, page) = server.get("/docs");
    assert_eq!(status, 200);
    // Slashes are escaped.
    assert!(page.contains("<code>POST &#x2f;v1&#x2f;rows</code>"), "{page}");
    assert!(page.contains("<code>mark</code>"), "{page}");
    assert!(!page.contains("<script") && !page.contains("http://"), "{page}");
}
