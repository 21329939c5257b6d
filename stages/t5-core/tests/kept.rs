//! Texts have what they must have, whatever the model would write.
#![expect(clippy::expect_used, reason = "a property has no place for other errors")]

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use paraloom_t5_core::config::Config;
use paraloom_t5_core::decode::{
    Draw, EarlyStopping, End, Kept, Options, Row, Span, Strategy, Words, generate,
};
use paraloom_t5_core::device::default_device;
use paraloom_t5_core::model::{InferenceModel, Model};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

const EOS: u32 = 1;
const SIZE: u32 = 44;

static TINY: LazyLock<InferenceModel> = LazyLock::new(|| {
    let config = Config::small(SIZE as usize, 24, 40, 2, 3);
    Model::initial(config, &default_device(), 11).expect("it is a model").for_inference()
});

/// Start and end, digits with a space before them and without, signs, words and what goes on with them.
static WORDS: LazyLock<Arc<Words>> = LazyLock::new(|| {
    let text = |token: u32| match token {
        0 | EOS => String::new(),
        2..12 => format!(" {}", token - 2),
        12..22 => format!("{}", token - 12),
        22 => ".".into(),
        23 => "%".into(),
        24..34 => format!(" {}", char::from(b'a' + (token - 24) as u8)),
        _ => format!("{}", char::from(b'a' + (token - 34) as u8)),
    };
    Arc::new(Words::new((0..SIZE).map(|token| text(token).into_bytes()).collect()))
});

fn strategy() -> impl proptest::strategy::Strategy<Value = (Strategy, usize)> {
    let beams = |beams, groups| Strategy::Beam {
        beams,
        groups,
        diversity_penalty: 1.0,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::No,
    };
    prop_oneof![
        Just((Strategy::Greedy, 1)),
        Just((Strategy::Sample(Draw::default()), 2)),
        Just((beams(3, 1), 3)),
        Just((beams(4, 2), 2)),
    ]
}

/// Spans by their tokens: a number of some digits, or a word of some letters and perhaps another.
fn span() -> impl proptest::strategy::Strategy<Value = Vec<u32>> {
    let number = (2..12u32, prop::collection::vec(12..22u32, 0..3), any::<bool>()).prop_map(
        |(first, rest, percent)| {
            let rest = rest.into_iter().chain(percent.then_some(23));
            [first].into_iter().chain(rest).collect()
        },
    );
    let name = prop::collection::vec((24..34u32, prop::collection::vec(34..44u32, 0..3)), 1..3)
        .prop_map(|words| {
            words.into_iter().flat_map(|(first, rest)| [vec![first], rest].concat()).collect()
        });
    prop_oneof![number, name]
}

fn row(source: &[u32], spans: &[Vec<u32>], numbers: bool, seed: u64) -> Row {
    // Of spans that share words, one may come and go with the other: there, the least room can be too little, and the row is
    // rejected.
    let mut apart: Vec<&Vec<u32>> = Vec::new();
    for span in spans {
        if !apart.iter().any(|other| other.iter().any(|token| span.contains(token))) {
            apart.push(span);
        }
    }
    let spans = apart;
    let span = |pieces: &&Vec<u32>| Span {
        text: WORDS.text(pieces).trim().to_owned(),
        pieces: (*pieces).clone(),
    };
    let kept = Kept::new(spans.iter().map(span).collect(), numbers.then(BTreeSet::new), &WORDS);
    Row { ids: source.iter().copied().chain([EOS]).collect(), seed, kept }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn texts_have_what_they_must(
        (strategy, candidates) in strategy(),
        source in prop::collection::vec(2..SIZE, 0..12),
        spans in prop::collection::vec(span(), 0..5),
        numbers in any::<bool>(),
        room in 0..12usize,
        seed in any::<u64>(),
    ) {
        let row = row(&source, &spans, numbers, seed);
        let max_new_tokens = (row.kept.tokens() + room).max(1);
        let words = Arc::clone(&WORDS);
        let options = Options { strategy, candidates, max_new_tokens, words, ..Options::default() };
        let found = generate(&TINY, std::slice::from_ref(&row), &options, &|| false);
        let found = found.expect("it generates");
        prop_assert!(!found[0].is_empty());
        for candidate in &found[0] {
            let text = WORDS.text(&candidate.ids);
            prop_assert!(row.kept.missing_in(&text).is_empty(), "{text:?} lacks {:?}", row.kept.missing_in(&text));
            // What is cut off in the middle of a number may be another one.
            if candidate.end == End::Eos {
                prop_assert_eq!(row.kept.foreign_number(&text), None, "{}", text);
            }
            prop_assert!(candidate.ids.len() <= max_new_tokens);
            let scored = candidate.ids.len() + usize::from(candidate.end == End::Eos);
            prop_assert_eq!(candidate.token_scores.len(), scored);
        }
    }

    #[test]
    fn texts_end_with_what_ends_them(
        (strategy, candidates) in strategy(),
        source in prop::collection::vec(2..SIZE, 0..12),
        stops in prop::collection::vec(span(), 1..3),
        seed in any::<u64>(),
    ) {
        let row = row(&source, &[], false, seed);
        let stop: Vec<String> = stops.iter().map(|tokens| WORDS.text(&tokens[..1])).collect();
        let words = Arc::clone(&WORDS);
        let options = Options {
            strategy, candidates, words, max_new_tokens: 20, stop: stop.as_slice().into(), ..Options::default()
        };
        let found = generate(&TINY, &[row], &options, &|| false).expect("it generates");
        for candidate in &found[0] {
            let has_stop = |tokens: &[u32]| stop.iter().any(|stop| WORDS.text(tokens).contains(stop));
            prop_assert_eq!(has_stop(&candidate.ids), candidate.end == End::Stop);
            if let [before @ .., _] = candidate.ids.as_slice() {
                prop_assert!(!has_stop(before), "{:?} goes on", WORDS.text(&candidate.ids));
            }
        }
    }
}
