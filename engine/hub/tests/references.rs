//! What references mean: which files they need, which commit they are, and what the cache can
//! say of them without a network.

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;

use common::server::Trick;
use common::{Bench, MODEL};
use paraloom_hub::{Cached, HubError, Reference};

const SPLIT: &str = "hf://datasets/acme/pairs/labeled/train";

/// Names of fetched files, below the snapshot.
fn names(bench: &Bench, reference: &str) -> String {
    match bench.fetch(reference) {
        Ok(paths) => {
            let name = |path: &std::path::PathBuf| {
                let text = path.display().to_string();
                text.split_once("/snapshots/")
                    .map_or(text.clone(), |(_, name)| name[41..].to_owned())
            };
            paths.iter().map(name).collect::<Vec<_>>().join("\n")
        }
        Err(error) => bench.told(&error),
    }
}

fn cached(bench: &Bench, reference: &str) -> Option<Cached> {
    bench.hub().cached(&Reference::parse(reference).expect("a reference"))
}

#[test]
fn data_sets() {
    let bench = Bench::new();
    bench.server.commit(
        "datasets/acme/pairs",
        "main",
        &[
            ("README.md", b"pairs"),
            ("labeled/train-00000-of-00002.parquet", b"one"),
            ("labeled/train-00001-of-00002.parquet", b"two"),
            ("labeled/test-00000-of-00001.parquet", b"three"),
            ("swapped/train-00000-of-00001.parquet", b"four"),
        ],
    );
    bench.server.commit("datasets/acme/csv", "main", &[("train.csv", b"a,b\n")]);
    bench.server.commit(
        "datasets/acme/csv",
        "refs/convert/parquet",
        &[
            ("default/train/0000.parquet", b"one"),
            ("default/train/0001.parquet", b"two"),
            ("default/partial-test/0000.parquet", b"three"),
        ],
    );
    bench.server.commit("datasets/acme/text", "main", &[("train.txt", b"a\n")]);
    let all: Vec<_> = [
        SPLIT,
        "hf://datasets/acme/pairs/labeled@main/test",
        "hf://datasets/acme/pairs/labelled/train",
        "hf://datasets/acme/pairs/swapped/test",
        "hf://datasets/acme/pairs/train",
        "hf://datasets/acme/csv/train",
        "hf://datasets/acme/csv/default/train",
        "hf://datasets/acme/csv/test",
        "hf://datasets/acme/csv@v1/train",
        "hf://datasets/acme/text/train",
        "hf://datasets/acme/none/train",
    ]
    .iter()
    .map(|reference| format!("## {reference}\n{}", names(&bench, reference)))
    .collect();
    insta::assert_snapshot!(all.join("\n"));
    // What was fetched is known without the hub, the converted one too.
    for (reference, files) in [(SPLIT, 2), ("hf://datasets/acme/csv/train", 2)] {
        let paths = cached(&bench, reference).and_then(|cached| cached.paths);
        assert_eq!(paths.map(|paths| paths.len()), Some(files), "{reference}");
    }
}

/// Paths and bytes.
type Files<'a> = Vec<(&'a str, &'a [u8])>;

#[test]
fn models_in_shards_and_models_that_lack_something() {
    let index = |name: &str| {
        format!(
            "{{\"weight_map\": {{\"a\": \"{name}\", \"b\": \"model-00002-of-00002.safetensors\"}}}}"
        )
    };
    let (sound, odd) = (index("model-00001-of-00002.safetensors"), index("../../x"));
    let base: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("tokenizer.json", b"{}")];
    let shards: [(&str, &[u8]); 2] = [
        ("model-00001-of-00002.safetensors", b"one"),
        ("model-00002-of-00002.safetensors", b"two"),
    ];
    let pickled = sound.replace("safetensors", "bin");
    let bins: [(&str, &[u8]); 2] =
        [("model-00001-of-00002.bin", b"one"), ("model-00002-of-00002.bin", b"two")];
    let cases: [(&str, Files); 9] = [
        ("shards", vec![("model.safetensors.index.json", sound.as_bytes()), shards[0], shards[1]]),
        ("a missing shard", vec![("model.safetensors.index.json", sound.as_bytes()), shards[0]]),
        ("a shard elsewhere", vec![("model.safetensors.index.json", odd.as_bytes()), shards[0]]),
        ("an index that is none", vec![("model.safetensors.index.json", b"[]")]),
        ("only pickled", vec![("pytorch_model.bin", b"pickle"), ("tf_model.h5", b"never")]),
        (
            "pickled in shards",
            vec![("pytorch_model.bin.index.json", pickled.as_bytes()), bins[0], bins[1]],
        ),
        ("of another framework", vec![("tf_model.h5", b"never")]),
        ("no weights", vec![]),
        ("both", vec![("model.safetensors", b"whole"), ("pytorch_model.bin", b"never"), shards[0]]),
    ];
    let mut all = String::new();
    for (name, files) in cases {
        let bench = Bench::new();
        bench.server.commit("models/acme/tiny", "main", &[&base[..], &files].concat());
        let outcome = match bench.fetch(MODEL) {
            Ok(paths) => listed(&paths[0]),
            Err(error) => bench.told(&error),
        };
        assert!(bench.outside().is_empty(), "{name}: nothing outside");
        all.push_str(&format!("## {name}\n{outcome}\n"));
    }
    insta::assert_snapshot!(all);
}

/// What turns text into tokens; what there is none of is told before anything is fetched.
#[test]
fn models_with_any_kind_of_tokenizer() {
    let cases: [(&str, Files); 5] = [
        ("pieces", vec![("spiece.model", b"pieces"), ("added_tokens.json", b"{}")]),
        ("pairs of bytes", vec![("vocab.json", b"{}"), ("merges.txt", b"a b")]),
        ("half of these", vec![("vocab.json", b"{}")]),
        ("bytes", vec![("tokenizer_config.json", b"{}")]),
        ("none", vec![]),
    ];
    let base: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"weights")];
    let mut all = String::new();
    for (name, files) in cases {
        let bench = Bench::new();
        bench.server.commit("models/acme/tiny", "main", &[&base[..], &files].concat());
        let outcome = match bench.fetch(MODEL) {
            Ok(paths) => listed(&paths[0]),
            Err(error) => {
                let fetched = bench.server.seen();
                let fetched = fetched.iter().filter(|seen| seen.line.starts_with("GET /acme"));
                assert_eq!(fetched.count(), 0, "{name}: it was known before");
                bench.told(&error)
            }
        };
        all.push_str(&format!("## {name}\n{outcome}\n"));
    }
    insta::assert_snapshot!(all);
}

fn listed(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).expect("it is there").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(" ")
}

#[test]
fn a_branch_moves_and_a_commit_does_not() {
    let bench = Bench::with_model();
    let old = bench.fetch(MODEL).expect("it is served").remove(0);
    let mut files = common::model();
    files[1].1 = b"{\"changed\": true}";
    let commit = bench.server.commit("models/acme/tiny", "main", &files);
    bench.server.seen();
    let new = bench.fetch(MODEL).expect("it is served").remove(0);
    assert_ne!(old, new);
    assert_eq!(new.file_name().and_then(|name| name.to_str()), Some(commit.as_str()));
    let bodies: Vec<_> =
        bench.server.seen().into_iter().filter(|seen| seen.line.starts_with("GET /acme")).collect();
    assert_eq!(bodies.len(), 1, "only what changed is sent again: {bodies:?}");
    let refs = std::fs::read_to_string(bench.settings.cache.join("models--acme--tiny/refs/main"));
    assert_eq!(refs.ok(), Some(commit.clone()));
    // A commit needs no asking.
    let by_commit = format!("{MODEL}@{commit}");
    bench.server.play_always("/revision/", Trick::Status(500, vec![]));
    assert_eq!(bench.fetch(&by_commit).expect("it is here"), [new]);
}

/// A cache as `snapshot_download` and `load_dataset` of Python make it.
fn made_by_python(cache: &Path) -> [String; 2] {
    let commits = ["1".repeat(40), "2".repeat(40)];
    let put = |folder: &str, commit: &str, files: &[(&str, &str)]| {
        let root = cache.join(folder);
        std::fs::create_dir_all(root.join("refs")).expect("it is ours");
        std::fs::create_dir_all(root.join("blobs")).expect("it is ours");
        std::fs::write(root.join("refs/main"), commit).expect("it is ours");
        for (path, text) in files {
            let blob = common::server::git(text.as_bytes());
            std::fs::write(root.join("blobs").join(&blob), text).expect("it is ours");
            let link = root.join("snapshots").join(commit).join(path);
            std::fs::create_dir_all(link.parent().expect("it has one")).expect("it is ours");
            let up = "../".repeat(path.matches('/').count() + 2);
            symlink(format!("{up}blobs/{blob}"), link).expect("it is ours");
        }
    };
    put(
        "models--acme--tiny",
        &commits[0],
        &[("config.json", "{}"), ("model.safetensors", "weights"), ("spiece.model", "pieces")],
    );
    put(
        "datasets--acme--pairs",
        &commits[1],
        &[
            ("labeled/train-00000-of-00001.parquet", "one"),
            ("counted/train/0000.parquet", "one of who knows how many"),
            ("half/train-00000-of-00002.parquet", "one of two"),
        ],
    );
    commits
}

#[test]
fn a_cache_made_by_python_needs_no_network() {
    let mut bench = Bench::new();
    let [model, data] = made_by_python(&bench.settings.cache);
    bench.settings.offline = true;
    bench.settings.endpoint = "http://127.0.0.1:9".to_owned();
    let before = bench.listing();
    let found = cached(&bench, MODEL).expect("it is known");
    assert_eq!(found.pinned.commit, model);
    assert!(found.paths.expect("it is whole")[0].join("config.json").is_file());
    let found = cached(&bench, SPLIT).expect("it is known");
    assert_eq!(found.pinned.commit, data);
    assert_eq!(
        std::fs::read(&found.paths.expect("it is whole")[0]).ok().as_deref(),
        Some(&b"one"[..])
    );
    // Whether more files follow cannot be told from these.
    for split in ["counted", "half"] {
        let found = cached(&bench, &format!("hf://datasets/acme/pairs/{split}/train"));
        assert_eq!(found.and_then(|found| found.paths), None, "{split}");
    }
    assert_eq!(bench.listing(), before, "looking writes nothing");
    let error = bench.fetch("hf://acme/other").expect_err("it is not here");
    assert!(matches!(error, HubError::Offline { .. }));
    insta::assert_snapshot!(bench.told(&error));
}

#[test]
fn a_cache_that_lost_a_blob_is_mended() {
    let bench = Bench::with_model();
    let snapshot = bench.fetch(MODEL).expect("it is served").remove(0);
    let blob = snapshot.join("model.safetensors").canonicalize().expect("it is there");
    std::fs::remove_file(&blob).expect("it is ours");
    assert_eq!(cached(&bench, MODEL).and_then(|cached| cached.paths), None);
    bench.fetch(MODEL).expect("it is served");
    std::fs::write(&blob, "cut short").expect("it is ours");
    bench.fetch(MODEL).expect("it is served");
    assert!(std::fs::read(blob).expect("it is there") == common::weights());
}

#[test]
fn what_is_here_whole_needs_no_hub() {
    let mut bench = Bench::with_model();
    bench.fetch(MODEL).expect("it is served");
    bench.settings.endpoint = "http://127.0.0.1:9".to_owned();
    let pinned = cached(&bench, MODEL).expect("it is known").pinned;
    let reference = Reference::parse(MODEL).expect("a reference");
    let watch = paraloom_hub::Watch { stop: &bench.stop, notice: &|_| {} };
    assert!(matches!(bench.hub().pin(&reference, &watch), Err(HubError::Unreachable { .. })));
    bench.hub().fetch(&reference, &pinned, &watch).expect("it is here");
}
