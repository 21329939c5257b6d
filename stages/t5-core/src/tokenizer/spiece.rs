//! A SentencePiece model (`spiece.model`), turned into the `tokenizer.json` that says the same.
//!
//! The layout is `sentencepiece_model.proto`; the result is what the genuine `tokenizer.json` of T5 holds.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::normalizers::Precompiled;

use super::{
    charsmap,
    protobuf::{Fields, Result},
    special_token, unigram_json,
};

/// More pieces than any vocabulary has.
const MOST_PIECES: usize = 1 << 20;

/// How a text is divided.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// Into the pieces that are most probable together.
    #[default]
    Unigram,
    /// Into characters, of which neighbours are joined to the piece of the highest score, again and again.
    Bpe,
}

/// Characters of the longest piece that SentencePiece learns.
const LONGEST_PIECE: usize = 512;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// A byte of a character that no piece has.
    Byte,
    Unknown,
    Control,
    /// A symbol of the author's own, which always stays whole.
    UserDefined,
}

/// A piece with the logarithm of its probability.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

/// What counts in a SentencePiece model.
#[derive(Debug, Default)]
struct Model<'a> {
    pieces: Vec<Piece<'a>>,
    charsmap: &'a [u8],
    algorithm: Algorithm,
}

/// The `tokenizer.json` of a SentencePiece model, with so many tokens for the gaps of T5's pre-training task, which the
/// model does not hold.
///
/// # Errors
/// When the bytes are damaged, or are of another kind of model than T5's.
pub(super) fn to_json(bytes: &[u8], extra_ids: usize) -> Result<Value> {
    let model = Model::read(bytes)?;
    let unknown: Vec<usize> =
        (0..model.pieces.len()).filter(|&id| model.pieces[id].kind == Kind::Unknown).collect();
    let &[unknown] = unknown.as_slice() else {
        return Err("it does not have exactly one unknown piece");
    };
    if extra_ids > MOST_PIECES {
        return Err("`extra_ids` is more than any vocabulary has");
    }
    let extra: Vec<String> = (0..extra_ids).rev().map(|id| format!("<extra_id_{id}>")).collect();
    let special = model.pieces.iter().enumerate().filter(|(_, piece)| piece.kind.is_added()).map(
        |(id, piece)| {
            let mut token = special_token(id, piece.text);
            token["special"] = (piece.kind != Kind::UserDefined).into();
            token
        },
    );
    let extra_tokens =
        extra.iter().zip(model.pieces.len()..).map(|(name, id)| special_token(id, name));
    let added: Vec<Value> = special.chain(extra_tokens).collect();
    let pieces = model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)]));
    let vocab: Vec<Value> = pieces.chain(extra.iter().map(|name| json!([name, 0.0]))).collect();
    let end = model.pieces.iter().position(|piece| piece.text == "</s>");
    let end = end.ok_or("it does not have the piece `</s>`")?;
    let mut json = unigram_json(&added, &model.normalizer()?, [unknown, end], &vocab);
    if model.algorithm == Algorithm::Bpe {
        json["model"] = model.bpe(unknown, &extra)?;
        // As SentencePiece does; of a Unigram model transformers takes them for pieces like others.
        if model.pieces.iter().any(|piece| piece.kind == Kind::Byte) {
            json["decoder"] = json!({ "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, json["decoder"]] });
        }
    }
    Ok(json)
}

impl Kind {
    /// Whether it is of a token that is looked for in a text before anything else.
    fn is_added(self) -> bool {
        !matches!(self, Self::Normal | Self::Byte)
    }
}

impl<'a> Model<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut model = Self::default();
        for field in Fields::new(bytes) {
            match field? {
                (1, piece) => model.pieces.push(Piece::read(piece.bytes()?)?),
                (2, trainer) => model.algorithm = read_trainer(trainer.bytes()?)?,
                (3, normalizer) => model.charsmap = read_normalizer(normalizer.bytes()?)?,
                _ => {}
            }
            if model.pieces.len() > MOST_PIECES {
                return Err("it has more pieces than any vocabulary");
            }
        }
        let mut seen = HashSet::new();
        if model.pieces.iter().any(|piece| piece.text.is_empty() || !seen.insert(piece.text)) {
            return Err("a piece is empty or stands there twice");
        }
        Ok(model)
    }

    /// The model of a `tokenizer.json` that joins as SentencePiece does: every two pieces that make a third one may be joined, those
    /// of the highest score first.
    fn bpe(&self, unknown: usize, extra: &[String]) -> Result<Value> {
        if self.pieces.iter().any(|piece| piece.text.chars().count() > LONGEST_PIECE) {
            return Err("a piece is longer than SentencePiece makes them");
        }
        let normal = |piece: &&Piece<'_>| piece.kind == Kind::Normal;
        let places: HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text, id)).collect();
        let mut joined: Vec<&Piece<'_>> = self.pieces.iter().filter(normal).collect();
        joined.sort_by(|one, other| other.score.total_cmp(&one.score));
        let halves = |piece: &Piece<'a>| {
            let text = piece.text;
            let at = text.char_indices().map(|(at, _)| at).skip(1);
            let is_piece =
                |half: &str| places.get(half).is_some_and(|&id| normal(&&self.pieces[id]));
            let halves = at.map(|at| text.split_at(at));
            halves.filter(|(left, right)| is_piece(left) && is_piece(right)).collect::<Vec<_>>()
        };
        let merges: Vec<_> = joined.into_iter().flat_map(halves).collect();
        let names =
            self.pieces.iter().map(|piece| piece.text).chain(extra.iter().map(String::as_str));
        let vocab: serde_json::Map<String, Value> =
            names.zip(0..).map(|(name, id): (&str, usize)| (name.to_owned(), id.into())).collect();
        Ok(json!({
            "type": "BPE", "dropout": null, "unk_token": self.pieces[unknown].text, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "ignore_merges": false, "vocab": vocab, "merges": merges,
            "byte_fallback": self.pieces.iter().any(|piece| piece.kind == Kind::Byte),
        }))
    }

    /// The normaliser that applies the table of the model; none where it is empty.
    fn normalizer(&self) -> Result<Value> {
        if self.charsmap.is_empty() {
            return Ok(Value::Null);
        }
        charsmap::check(self.charsmap)?;
        let failed = "its normalisation table cannot be read";
        let precompiled = Precompiled::from(self.charsmap).map_err(|_| failed)?;
        serde_json::to_value(&precompiled).map_err(|_| failed)
    }
}

impl<'a> Piece<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut piece = Self { text: "", score: 0.0, kind: Kind::Normal };
        for field in Fields::new(message) {
            match field? {
                (1, text) => piece.text = text.text()?,
                (2, score) => piece.score = score.float()?,
                (3, kind) => {
                    piece.kind = match kind.number()? {
                        // Those that are not used (5) transformers takes as any piece.
                        1 | 5 => Kind::Normal,
                        6 => Kind::Byte,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        _ => return Err("it has pieces of a kind that T5's models do not have"),
                    }
                }
                _ => {}
            }
        }
        if piece.score.is_finite() { Ok(piece) } else { Err("a score is not a number") }
    }
}

/// How the model divides texts. What was trained in a way that no T5 was is refused.
fn read_trainer(message: &[u8]) -> Result<Algorithm> {
    let mut algorithm = Algorithm::default();
    for field in Fields::new(message) {
        match field? {
            (3, kind) => {
                algorithm = match kind.number()? {
                    1 => Algorithm::Unigram,
                    2 => Algorithm::Bpe,
                    _ => return Err("it is a model of words or of characters, not of pieces"),
                }
            }
            (24, suffix) if suffix.number()? != 0 => {
                return Err("it puts the mark of a space behind words, and T5's put it in front");
            }
            _ => {}
        }
    }
    Ok(algorithm)
}

/// The table of a normaliser. What it says of spaces counts for nothing: transformers treats those of every model as T5's.
fn read_normalizer(message: &[u8]) -> Result<&[u8]> {
    let mut charsmap: &[u8] = &[];
    for field in Fields::new(message) {
        if let (2, table) = field? {
            charsmap = table.bytes()?;
        }
    }
    Ok(charsmap)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{super::Tokenizer, *};

    /// A field with bytes.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend(value);
        field
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut message = bytes(1, text.as_bytes());
        message.push(2 << 3 | 5);
        message.extend(score.to_le_bytes());
        message.extend([3 << 3, kind]);
        bytes(1, &message)
    }

    fn pieces() -> Vec<u8> {
        let special = [("<pad>", 3), ("</s>", 3), ("<unk>", 2)];
        let mut model: Vec<u8> =
            special.iter().flat_map(|(text, kind)| piece(text, 0.0, *kind)).collect();
        for (text, score) in
            [("▁", -2.0), ("a", -3.0), ("b", -3.5), ("c", -4.0), ("▁a", -3.2), ("bc", -3.9)]
        {
            model.extend(piece(text, score, 1));
        }
        model
    }

    /// Some pieces, and a table that makes `bc` of `x`.
    pub(in crate::tokenizer) fn model() -> Vec<u8> {
        let mut model = pieces();
        let table = charsmap::tests::table(b'x', 0, "bc\0");
        model.extend(bytes(3, &bytes(2, &table)));
        model
    }

    #[test]
    fn a_model_becomes_a_tokenizer() -> crate::Result<()> {
        let tokenizer = Tokenizer::from_spiece(&model())?;
        assert_eq!(tokenizer.vocab_size(), 9 + 100);
        assert_eq!(tokenizer.encode("a  x", None)?, [7, 3, 8, 1]);
        assert_eq!(tokenizer.encode("a</s>", None)?, [7, 2, 1]);
        assert_eq!(tokenizer.decode(&[7, 3, 8, 1, 108, 9])?, "a bc");
        Ok(())
    }

    /// As transformers has them: symbols are tokens of their own, bytes are pieces like others, and spaces are T5's.
    #[test]
    fn pieces_of_other_kinds_are_those_of_transformers() -> crate::Result<()> {
        let model = [
            pieces(),
            piece("<mark>", 0.0, 4),
            piece("<0x41>", -9.0, 6),
            // The field `byte_fallback`, 35.
            bytes(2, &[0x98, 2, 1]),
            bytes(3, &[3 << 3, 0, 4 << 3, 0]),
        ];
        let tokenizer = Tokenizer::from_spiece(&model.concat())?;
        assert_eq!(tokenizer.encode("a<mark>  a", None)?, [7, 9, 7, 1]);
        assert_eq!(tokenizer.encode("A", None)?, [3, 2, 1]);
        assert_eq!(tokenizer.decode(&[7, 9, 1])?, "a<mark>");
        Ok(())
    }

    /// The expected tokens are those of SentencePiece 0.2.
    #[test]
    fn pieces_are_joined_by_falling_score() -> crate::Result<()> {
        let mut model = bytes(2, &[3 << 3, 2]);
        for (text, score, kind) in [
            ("<pad>", 0.0, 3),
            ("</s>", 0.0, 3),
            ("<unk>", 0.0, 2),
            ("bc", -0.0, 1),
            ("▁a", -1.0, 1),
            ("▁ab", -2.0, 1),
            ("▁abc", -3.0, 1),
            ("▁", -4.0, 1),
            ("a", -5.0, 1),
            ("b", -6.0, 1),
            ("c", -7.0, 1),
        ] {
            model.extend(piece(text, score, kind));
        }
        let tokenizer = Tokenizer::from_spiece(&model)?;
        let known: [(&str, &[u32]); 5] = [
            ("abc", &[6, 1]),
            ("ab b", &[5, 7, 9, 1]),
            ("bcab", &[7, 3, 8, 9, 1]),
            ("aéßa c", &[4, 2, 8, 7, 10, 1]),
            ("</s>", &[7, 2, 1]),
        ];
        for (text, ids) in known {
            assert_eq!(tokenizer.encode(text, None)?, ids, "{text}");
        }
        assert_eq!(tokenizer.decode(&[6, 7, 3, 1])?, "abc bc");
        assert_eq!(tokenizer.vocab_size(), 11 + 100);

        // With a byte for what has no piece.
        model.extend(piece("<0x41>", 0.0, 6));
        let tokenizer = Tokenizer::from_spiece(&model)?;
        assert_eq!(tokenizer.encode("Ab", None)?, [7, 11, 9, 1]);
        assert_eq!(tokenizer.decode(&[7, 11, 9, 1])?, "Ab");

        model.extend(piece(&"a".repeat(513), -8.0, 1));
        assert!(
            Tokenizer::from_spiece(&model).is_err_and(|error| error.to_string().contains("longer"))
        );
        Ok(())
    }

    #[test]
    fn what_is_not_a_model_of_t5_is_refused_by_name() {
        let with = |field: Vec<u8>| [pieces(), field].concat();
        let cases = [
            (Vec::new(), "exactly one unknown piece"),
            (b"PK\x03\x04 a zip".to_vec(), ""),
            (with(piece("a", 0.0, 1)), "stands there twice"),
            (with(piece("", 0.0, 1)), "empty"),
            (with(piece("d", f32::NAN, 1)), "score"),
            (with(piece("d", 0.0, 7)), "of a kind"),
            (with(bytes(2, &[3 << 3, 3])), "of words"),
            (with(bytes(2, &[24 << 3 | 0x80, 1, 1])), "space"),
            (with(bytes(3, &bytes(2, &[0xff; 8]))), "cut short"),
            (pieces()[..20].to_vec(), "cut short"),
        ];
        for (bytes, message) in cases {
            let error = to_json(&bytes, 100).expect_err(message);
            assert!(error.contains(message), "{error}, not {message}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        /// Damaged anywhere, a model is refused or works; it never panics and never takes memory for nothing.
        #[test]
        fn a_damaged_model_is_refused_or_works(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
            is_bpe in any::<bool>(),
        ) {
            let mut bytes = model();
            if is_bpe {
                bytes.extend(self::bytes(2, &[3 << 3, 2]));
            }
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(tokenizer) = Tokenizer::from_spiece(&bytes) {
                let ids = tokenizer.encode("a xx bc ä </s> x\u{301}", None).unwrap_or_default();
                let _ = tokenizer.decode(&ids);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_work(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Tokenizer::from_spiece(&bytes);
        }
    }
}
