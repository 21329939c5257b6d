//! Publishing on a hub, and reading it back.

mod common;

use std::path::PathBuf;

use common::server::Trick;
use common::{Bench, model};
use paraloom_hub::{HubError, Notice, Published, Reference, Upload, Watch};

/// Files on this machine, as they are to be in a repository.
fn uploads(bench: &Bench, files: &[(&str, &[u8])]) -> Vec<Upload> {
    let upload = |(path, bytes): &(&str, &[u8])| {
        let file: PathBuf = bench.dir.path().join("mine").join(path);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("it is ours");
        std::fs::write(&file, bytes).expect("it is ours");
        Upload::new(*path, file).expect("it is there")
    };
    files.iter().map(upload).collect()
}

fn publish(bench: &Bench, to: &str, files: &[Upload], public: bool) -> Result<Published, HubError> {
    let reference = Reference::parse(to).expect("a reference");
    let notice = |notice: &Notice| bench.notices.borrow_mut().push(notice.clone());
    let watch = Watch { stop: &bench.stop, notice: &notice };
    bench.hub().publish(&reference, files, "by a test", public, &watch)
}

#[test]
fn what_is_published_is_read_back_and_not_sent_twice() {
    for chunk in [0, 70_000] {
        let bench = Bench::new();
        bench.server.with_pieces_of(chunk);
        let files = uploads(&bench, &model());
        let published = publish(&bench, "hf://acme/mine", &files, false).expect("it is taken");
        assert_eq!((published.files, published.page.ends_with("/acme/mine")), (10, true));
        let paths = bench.fetch("hf://acme/mine").expect("it is there");
        for name in ["model.safetensors", "config.json", "tokenizer.json"] {
            let there = std::fs::read(paths[0].join(name)).expect("it was fetched");
            let ours = model().iter().find(|file| file.0 == name).expect("a file").1;
            assert!(there == ours, "{name}, in pieces of {chunk}");
        }
        assert_eq!(bench.server.was_made("models/acme/mine"), Some(true), "private");

        bench.server.seen();
        let again = publish(&bench, "hf://acme/mine", &files, false).expect("nothing to do");
        assert_eq!((again.commit, again.files, again.bytes), (None, 0, 0));
        let sent = bench.server.seen();
        assert!(sent.iter().all(|seen| !seen.line.starts_with("PUT")), "{sent:?}");
        // One file has changed.
        let files = uploads(&bench, &[("config.json", b"{}")]);
        let changed = publish(&bench, "hf://acme/mine", &files, false).expect("it is taken");
        assert_eq!((changed.files, changed.bytes), (1, 2));
        assert_eq!(bench.server.files("models/acme/mine", "main").len(), 10, "the others stay");
    }
}

#[test]
fn data_sets_and_branches() {
    let bench = Bench::new();
    let path = "data/train-00000-of-00001.parquet";
    let files = uploads(&bench, &[(path, b"rows"), ("README.md", b"---\n---\n")]);
    let to = "hf://datasets/acme/pairs@next/train";
    publish(&bench, to, &files, true).expect("it is taken");
    assert_eq!(bench.server.was_made("datasets/acme/pairs"), Some(false), "public");
    let paths = bench.fetch(to).expect("it is there");
    assert_eq!(std::fs::read(&paths[0]).expect("it was fetched"), b"rows");
}

#[test]
fn what_goes_wrong_on_the_way_is_tried_again_or_said() {
    let bench = Bench::new();
    let files = uploads(&bench, &model());
    // Passing failures of anything but the commit.
    for on in ["create", "preupload", "objects/batch", "PUT", "verify"] {
        bench.server.play(on, Trick::Status(503, Vec::new()));
    }
    publish(&bench, "hf://acme/mine", &files, false).expect("it is taken in the end");

    let told = |on: &str, trick: Trick| {
        let bench = Bench::new();
        let files = uploads(&bench, &model());
        bench.server.play_always(on, trick);
        let error = publish(&bench, "hf://acme/mine", &files, false).expect_err("it is refused");
        assert!(bench.server.files("models/acme/mine", "main").is_empty());
        let told = bench.told(&error);
        assert!(!told.contains("secret"), "{told}");
        told
    };
    let status = |status| Trick::Status(status, Vec::new());
    let mut all = String::new();
    for (on, trick) in [
        ("create", status(403)),
        ("preupload", status(404)),
        ("preupload", Trick::Body("{\"files\": []}".to_owned())),
        ("preupload", Trick::Body("nonsense".to_owned())),
        ("objects/batch", Trick::Body("{\"objects\": []}".to_owned())),
        ("PUT", status(403)),
        ("PUT", status(500)),
        ("PUT", Trick::Hang),
        ("verify", status(422)),
        ("commit", status(412)),
        ("commit", status(503)),
    ] {
        let what = format!("{on} {trick:?}");
        all += &format!("{what}\n  {}\n", told(on, trick).replace('\n', "\n  "));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn nothing_is_published_without_a_token_or_the_network() {
    let mut bench = Bench::new();
    let files = uploads(&bench, &model());
    bench.settings.token = None;
    let error = publish(&bench, "hf://acme/mine", &files, false).expect_err("there is no token");
    assert!(bench.told(&error).contains("set HF_TOKEN"), "{error}");
    bench.settings.offline = true;
    let error = publish(&bench, "hf://acme/mine", &files, false).expect_err("it is offline");
    assert!(bench.told(&error).contains("without HF_HUB_OFFLINE"), "{error}");
    assert!(bench.server.seen().is_empty());
}
