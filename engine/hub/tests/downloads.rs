//! Everything that can happen to a download, and what comes of it: the right bytes or a clear
//! error, nothing outside the cache, no token for other hosts.

mod common;

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::server::{Server, Trick};
use common::{Bench, MODEL, TOKEN, weights};
use paraloom_hub::{HubError, Notice};

const FILE: &str =
    "GET /acme/tiny/resolve/0000000000000000000000000000c0de00000001/model.safetensors";

#[test]
fn a_model_lies_in_the_layout_of_python() {
    let bench = Bench::with_model();
    bench.server.page(2);
    let paths = bench.fetch(MODEL).expect("it is served");
    assert_eq!(std::fs::read(paths[0].join("model.safetensors")).expect("it is there"), weights());
    insta::assert_snapshot!(bench.listing());
    let total = bench.notices.borrow().iter().rev().find_map(|notice| match notice {
        Notice::Progress { done, total } => Some((*done, *total)),
        _ => None,
    });
    assert_eq!(total.map(|(done, total)| done == total && total > 300_000), Some(true));
}

/// Tricks that are survived: the requests for the weights, and what was told.
#[test]
fn what_a_server_can_do_and_still_be_read() {
    let wait = |seconds: &str| vec![("Retry-After", seconds.to_owned())];
    let tag = |text| vec![Trick::Tag(text)];
    let cases: Vec<(&str, &str, Vec<Trick>)> = vec![
        ("cut at the first byte", FILE, vec![Trick::Cut(0)]),
        ("cut in the middle", FILE, vec![Trick::Cut(150_000)]),
        ("cut five times", FILE, (0..5).map(|_| Trick::Cut(40_000)).collect()),
        ("busy", FILE, vec![Trick::Status(500, vec![]), Trick::Status(503, wait("0"))]),
        ("too many requests", FILE, vec![Trick::Status(429, wait("1"))]),
        ("busy listing", "/tree/", vec![Trick::Status(502, vec![]), Trick::Status(504, vec![])]),
        ("busy revision", "/revision/", vec![Trick::Status(503, vec![])]),
        ("busy head", "HEAD", vec![Trick::Status(429, wait("0"))]),
        ("too short", FILE, vec![Trick::Short]),
        ("wrong bytes once", FILE, vec![Trick::WrongBytes]),
        ("whole after a cut", FILE, vec![Trick::Cut(100_000), Trick::IgnoreRange]),
        ("another part after a cut", FILE, vec![Trick::Cut(100_000), Trick::WrongRange]),
        ("no such part after a cut", FILE, vec![Trick::Cut(100_000), Trick::Status(416, vec![])]),
        ("slow", FILE, vec![Trick::Slow(Duration::from_micros(100))]),
        ("silent once", FILE, vec![Trick::Hang]),
        ("tag with a slash", "HEAD", tag("\"../../x\"")),
        ("weak tag", "HEAD", tag("W/\"abc\"")),
        ("tag without quotes", "HEAD", tag("abc")),
    ];
    let mut all = String::new();
    for (name, on, tricks) in cases {
        let bench = Bench::with_model();
        tricks.into_iter().for_each(|trick| bench.server.play(on, trick));
        let outcome = bench.fetch(MODEL);
        let paths = outcome.unwrap_or_else(|error| panic!("{name}: {}", bench.told(&error)));
        let found = std::fs::read(paths[0].join("model.safetensors")).expect("it is there");
        assert!(found == weights(), "{name}: the bytes are right");
        assert!(!bench.listing().contains("incomplete"), "{name}: {}", bench.listing());
        assert!(bench.outside().is_empty(), "{name}: nothing outside");
        writeln!(all, "## {name}").expect("a string takes everything");
        for notice in bench.notices.borrow().iter() {
            if let Notice::Retry { reason, .. } = notice {
                let reason = reason.replace(&bench.server.address, "http://hub.test");
                writeln!(all, "  {reason}").expect("a string takes everything");
            }
        }
        for seen in bench.server.seen().iter().filter(|seen| seen.line == FILE) {
            let header = |name: &str| seen.headers.get(name).map_or("-", String::as_str);
            writeln!(all, "  range {} if-range {:.8}", header("range"), header("if-range"))
                .expect("a string takes everything");
        }
    }
    insta::assert_snapshot!(all);
}

/// Tricks that are not survived: what a person reads, and what is left.
#[test]
fn what_is_said_when_it_cannot_be() {
    let code = |code: &str| vec![("X-Error-Code", code.to_owned())];
    let wait = vec![("Retry-After", "3600".to_owned())];
    let cases: Vec<(&str, &str, &str, Trick)> = vec![
        ("always cut", MODEL, FILE, Trick::Cut(0)),
        ("always busy", MODEL, FILE, Trick::Status(500, vec![])),
        ("asks for an hour", MODEL, FILE, Trick::Status(429, wait)),
        ("always wrong bytes", MODEL, FILE, Trick::WrongBytes),
        ("always too short", MODEL, FILE, Trick::Short),
        ("always silent", MODEL, FILE, Trick::Hang),
        ("silent from the start", MODEL, "/revision/", Trick::Hang),
        ("forbidden file", MODEL, FILE, Trick::Status(403, vec![])),
        ("a teapot", MODEL, FILE, Trick::Status(418, vec![])),
        ("gated", MODEL, "/tree/", Trick::Status(403, code("GatedRepo"))),
        ("bad token", MODEL, "/revision/", Trick::Status(401, vec![])),
        ("not json", MODEL, "/tree/", Trick::Body("<html>log in</html>".to_owned())),
        ("no commit", MODEL, "/revision/", Trick::Body("{\"sha\": \"../../x\"}".to_owned())),
        ("a path that leaves", MODEL, "/tree/", listing("../x")),
        ("a path from the root", MODEL, "/tree/", listing("/etc/passwd")),
        ("a path with a backslash", MODEL, "/tree/", listing("a\\\\b")),
        ("a path with a nul", MODEL, "/tree/", listing("a\\u0000b")),
        ("a huge file", MODEL, "/tree/", Trick::Body("[{\"type\":\"file\",\"path\":\"config.json\",\"size\":9007199254740991}]".to_owned())),
        ("no room", MODEL, "/tree/", Trick::Body("[{\"type\":\"file\",\"path\":\"config.json\",\"size\":4},{\"type\":\"file\",\"path\":\"spiece.model\",\"size\":4},{\"type\":\"file\",\"path\":\"model.safetensors\",\"size\":4398046511104}]".to_owned())),
        ("no tag", MODEL, "HEAD", Trick::Status(200, vec![])),
        ("redirects to itself", MODEL, FILE, Trick::Status(302, vec![("Location", format!("{}?", &FILE[4..]))])),
        ("redirects to a file", MODEL, FILE, Trick::Status(302, vec![("Location", "file:///etc/passwd".to_owned())])),
        ("no such revision", "hf://acme/tiny@dev", "never", Trick::Hang),
        ("no such repository", "hf://acme/tinny", "never", Trick::Hang),
    ];
    let mut all = String::new();
    for (name, reference, on, trick) in cases {
        let bench = Bench::with_model();
        bench.server.play_always(on, trick);
        let error = bench.fetch(reference).expect_err(name);
        assert!(!format!("{error:?} {error}").contains(TOKEN), "{name}: {error:?}");
        assert!(bench.outside().is_empty(), "{name}: nothing outside");
        let listing = bench.listing();
        let left = listing.lines().filter(|line| line.contains("incomplete")).count();
        writeln!(all, "## {name} ({left} kept)\n{}", no_numbers(&bench.told(&error)))
            .expect("a string takes everything");
    }
    insta::assert_snapshot!(all);
}

fn listing(path: &str) -> Trick {
    Trick::Body(format!("[{{\"type\":\"file\",\"path\":\"{path}\",\"size\":1}}]"))
}

/// Free space differs from machine to machine.
fn no_numbers(text: &str) -> String {
    match text.split_once(" has ") {
        Some((before, after)) if after.contains("bytes free") => {
            let (_, after) = after.split_once(" bytes free").unwrap_or_default();
            format!("{before} has [FREE] bytes free{after}")
        }
        _ => text.to_owned(),
    }
}

#[test]
fn without_a_token_the_way_to_one_is_told() {
    let mut bench = Bench::with_model();
    bench.settings.token = None;
    let gated = vec![("X-Error-Code", "GatedRepo".to_owned())];
    bench.server.play("/revision/", Trick::Status(401, gated));
    let gated = bench.fetch(MODEL).expect_err("it is gated");
    let private = bench.fetch("hf://acme/private").expect_err("it is not shown");
    insta::assert_snapshot!(format!("{}\n\n{}", bench.told(&gated), bench.told(&private)));
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let bench = Bench::with_model();
    let cdn = Server::start();
    // The content network has the same files under the same paths.
    cdn.commit("models/acme/tiny", "main", &common::model());
    bench.server.redirect_to(&cdn);
    cdn.play(FILE, Trick::Cut(200_000));
    bench.fetch(MODEL).expect("it is served");
    let bearer = format!("Bearer {TOKEN}");
    let to_hub = bench.server.seen();
    assert!(
        to_hub.len() > 6
            && to_hub.iter().all(|seen| seen.headers.get("authorization") == Some(&bearer))
    );
    let to_cdn = cdn.seen();
    assert_eq!(to_cdn.len(), 2, "a cut download and the rest of it");
    for seen in &to_cdn {
        assert!(!format!("{seen:?}").contains(TOKEN), "{seen:?}");
        assert!(
            !seen.headers.contains_key("if-range"),
            "the tag is the hub's, not the other host's"
        );
    }
    assert_eq!(to_cdn[1].headers.get("range").map(String::as_str), Some("bytes=200000-"));
}

#[test]
fn secrets_in_addresses_are_not_told() {
    let bench = Bench::with_model();
    let cdn = Server::start();
    bench.server.redirect_to(&cdn);
    let error = bench.fetch(MODEL).expect_err("the other host has nothing");
    assert!(!format!("{error} {error:?}").contains("Signature"), "{error:?}");
    assert!(!format!("{:?}", bench.settings).contains(TOKEN));
}

#[test]
fn a_later_download_goes_on_where_an_earlier_one_stopped() {
    let bench = Bench::with_model();
    bench.server.play(FILE, Trick::Cut(120_000));
    bench.server.play(FILE, Trick::Cut(120_000));
    bench.server.play_always(FILE, Trick::Status(418, vec![]));
    bench.fetch(MODEL).expect_err("it is cut and then refused");
    bench.server.stop_tricks();
    bench.server.seen();
    bench.fetch(MODEL).expect("it is served");
    let ranges = bench.server.seen();
    let range =
        ranges.iter().find(|seen| seen.line == FILE).and_then(|seen| seen.headers.get("range"));
    // Each try went on where the one before it had stopped.
    assert_eq!(range.map(String::as_str), Some("bytes=240000-"));
    assert!(!bench.listing().contains("incomplete"));
}

#[test]
fn leftovers_with_other_bytes_do_no_harm() {
    let bench = Bench::with_model();
    let blobs = bench.settings.cache.join("models--acme--tiny/blobs");
    std::fs::create_dir_all(&blobs).expect("it is ours");
    let name = common::server::sha256(&weights());
    for left in ["1-ab-0.incomplete", "0a1b2c3d.incomplete", "incomplete"] {
        std::fs::write(blobs.join(format!("{name}.{left}")), vec![7; 90_000]).expect("it is ours");
    }
    let paths = bench.fetch(MODEL).expect("it is served");
    assert!(std::fs::read(paths[0].join("model.safetensors")).expect("it is there") == weights());
    assert!(!bench.listing().contains("incomplete"), "{}", bench.listing());
}

#[test]
fn stopping_takes_no_time_and_keeps_what_is_there() {
    let bench = Bench::with_model();
    bench.server.play_always(FILE, Trick::Slow(Duration::from_millis(20)));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let stop = &bench.stop;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            stop.store(true, Ordering::Release);
        });
        assert!(matches!(bench.fetch(MODEL), Err(HubError::Stopped)));
    });
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(bench.listing().matches("incomplete").count(), 1, "{}", bench.listing());
    bench.stop.store(false, Ordering::Release);
    bench.server.stop_tricks();
    bench.server.seen();
    bench.fetch(MODEL).expect("it is served");
    let seen = bench.server.seen();
    let last = seen.iter().find(|seen| seen.line == FILE).expect("the weights are asked for");
    assert!(last.headers.contains_key("range"), "{last:?}");
}

#[test]
fn a_silent_server_does_not_hold_up_a_stop() {
    let mut bench = Bench::with_model();
    bench.settings.silence = Duration::from_mins(1);
    bench.server.play(FILE, Trick::Hang);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let stop = &bench.stop;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Release);
        });
        assert!(matches!(bench.fetch(MODEL), Err(HubError::Stopped)));
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn many_at_once_end_with_the_right_bytes() {
    let bench = Bench::with_model();
    bench.server.play(FILE, Trick::Cut(150_000));
    let settings = &bench.settings;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let twin = Bench { settings: settings.clone(), ..Bench::new() };
                let paths = twin.fetch(MODEL).expect("it is served");
                assert!(
                    std::fs::read(paths[0].join("model.safetensors")).expect("it is there")
                        == weights()
                );
            });
        }
    });
    assert!(!bench.listing().contains("incomplete"), "{}", bench.listing());
    let times = bench.server.seen().iter().filter(|seen| seen.line == FILE).count();
    assert_eq!(times, 2, "one downloads, in two goes; the others wait for it");
}

#[test]
fn a_cut_at_every_place_is_mended() {
    for at in (0..300_000).step_by(65_536).chain([1, 299_999]) {
        let bench = Bench::with_model();
        bench.server.play(FILE, Trick::Cut(at));
        let paths = bench.fetch(MODEL).expect("it is served");
        assert!(
            std::fs::read(paths[0].join("model.safetensors")).expect("it is there") == weights(),
            "{at}"
        );
    }
}
