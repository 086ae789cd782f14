use super::*;
use proptest::prelude::*;

fn known(values: &[&str]) -> Known {
    Known::new((0..).zip(values.iter().map(|value| value.as_bytes().to_vec())))
}

fn numbers(known: &Known, text: &[u8]) -> Vec<(Range<usize>, u32)> {
    let mut all = Vec::new();
    let mut from = 0;
    while let Some((span, number)) = known.find(text, from) {
        from = span.end;
        all.push((span, number));
    }
    all
}

#[test]
fn the_leftmost_longest_value_is_found() {
    let known = known(&["password", "password-and-more", "and-more-still"]);
    let found = |text: &str| numbers(&known, text.as_bytes());
    assert_eq!(found("my password"), [(3..11, 0)]);
    assert_eq!(found("my password-and-more-still"), [(3..20, 1)]);
    assert_eq!(found("my password-and-mor"), [(3..11, 0)]);
    assert_eq!(found("and-more-still password-"), [(0..14, 2), (15..23, 0)]);
    assert!(found("passwor").is_empty() && found("").is_empty());
}

#[test]
fn a_value_is_found_in_every_encoding() {
    let value = "s3cret/val+ue \"q\"";
    let known = known(&[value]);
    let texts = [
        (Encoding::Raw, "x s3cret/val+ue \"q\" y"),
        (Encoding::Json, r#"{"a":"s3cret/val+ue \"q\""}"#),
        (Encoding::JsonSlash, r#"{"a":"s3cret\/val+ue \"q\""}"#),
        (Encoding::Url, "a=s3cret%2Fval%2Bue%20%22q%22&b"),
        (Encoding::Url, "a=s3cret%2Fval%2Bue+%22q%22&b"),
        (Encoding::UrlLower, "a=s3cret%2fval%2bue%20%22q%22&b"),
        (Encoding::Hex, "733363726574 2f76616c2b756520227122"),
        (Encoding::HexUpper, "7333637265742F76616C2B756520227122"),
        // base64 of "", "u:", "me:" before the value, and ":" behind
        (Encoding::Base64, "czNjcmV0L3ZhbCt1ZSAicSI6"),
        (Encoding::Base64, "dTpzM2NyZXQvdmFsK3VlICJxIjo="),
        (Encoding::Base64, "bWU6czNjcmV0L3ZhbCt1ZSAicSI6"),
    ];
    for (encoding, text) in texts {
        let text = text.replace("6574 2f", "65742f");
        let hit = known.hit(text.as_bytes(), 0).unwrap_or_else(|| panic!("{text}"));
        assert_eq!((hit.encoding, hit.number), (encoding, 0), "{text}");
    }
    assert_eq!(known.hit(b"s3cret-val+ue", 0), None);
}

#[test]
fn short_values_are_left_out_and_joined_sets_are_one() {
    assert!(known(&["1234567"]).is_empty());
    let joined = known(&["password-one"]).and(&Known::new([(9, b"password-one-more".to_vec())]));
    assert_eq!(joined.find(b"x password-one-more", 0), Some((2..19, 9)));
    assert_eq!(joined.find(b"x password-one-mor", 0), Some((2..14, 0)));
    assert_eq!(joined.alive(b"x password-one-mor", 0), Some(2));
}

#[test]
fn what_may_still_become_a_value_is_alive() {
    let known = known(&["password-one", "one-password"]);
    assert_eq!(known.alive(b"a pass", 0), Some(2));
    assert_eq!(known.alive(b"a password-one", 0), Some(11), "the rest may begin the other");
    assert_eq!(known.alive(b"a password-one", 12), None);
    assert_eq!(known.alive(b"a passx", 0), None);
    assert_eq!(known.alive(b"", 0), None);
}

#[test]
fn nothing_shows_a_value() {
    assert_eq!(format!("{:?}", known(&["password"])), "Known { patterns: 6, .. }");
}

#[test]
fn placeholders_are_found_as_models_write_them() {
    let one = "ghp_WEIRABCDEFGHIJKLMNOPQRST";
    let known = Known::placeholders([(3, one.as_bytes().to_vec())]);
    for text in [
        one.to_owned(),
        one.to_lowercase(),
        one.replace('_', "\\_"),
        format!("**{one}**"),
        format!("{}\n  {}", one.get(..9).unwrap(), one.get(9..).unwrap()),
        format!("`{one}`."),
    ] {
        let (span, number) = known.find(text.as_bytes(), 0).unwrap_or_else(|| panic!("{text}"));
        let found = text.get(span).unwrap();
        assert_eq!(number, 3);
        assert!(found.starts_with(['g', 'G']) && found.ends_with(['t', 'T']), "{found}");
    }
    for text in [
        one.get(..27).unwrap(),
        "ghp_WEIRABCDEFGHIJKLMNOPQRSU",
        &one.replace("AB", &" ".repeat(99)),
    ] {
        assert_eq!(known.find(text.as_bytes(), 0), None, "{text}");
    }
    assert_eq!(known.alive(b"x ghp_WE\n", 0), Some(2));
    assert_eq!(known.alive(b"x ghp_WX", 0), None);
}

/// What the set should say, by trying every value everywhere.
fn model(values: &[Vec<u8>], text: &[u8], from: usize) -> Option<(Range<usize>, u32)> {
    (from..text.len()).find_map(|at| {
        let rest = text.get(at..).unwrap();
        let here = (0..).zip(values).filter(|(_, value)| rest.starts_with(value));
        let (number, value) =
            here.max_by_key(|(number, value)| (value.len(), std::cmp::Reverse(*number)))?;
        Some((at..at + value.len(), number))
    })
}

fn model_alive(values: &[Vec<u8>], text: &[u8], from: usize) -> Option<usize> {
    let begins = |rest: &[u8]| values.iter().any(|v| v.len() > rest.len() && v.starts_with(rest));
    (from..text.len()).find(|at| begins(text.get(*at..).unwrap()))
}

proptest! {
    #[test]
    fn the_set_says_what_trying_everything_says(
        values in proptest::collection::vec("[ab]{8,12}", 1..20),
        text in "[ab]{0,60}", from in 0_usize..20,
    ) {
        // Without other spellings, which a model would have to know.
        let mut patterns = Vec::new();
        for (number, value) in (0..).zip(&values) {
            let bytes = value.as_bytes().to_vec();
            patterns.push(Pattern { bytes, number, encoding: Encoding::Raw, parent: None });
        }
        let set = Set::of(patterns).unwrap();
        let values: Vec<Vec<u8>> = values.into_iter().map(String::into_bytes).collect();
        let found = set.hit(text.as_bytes(), from).map(|hit| (hit.span, hit.number));
        prop_assert_eq!(found, model(&values, text.as_bytes(), from));
        prop_assert_eq!(set.alive(text.as_bytes(), from), model_alive(&values, text.as_bytes(), from));
    }

    #[test]
    fn every_prefix_of_a_value_is_alive_and_the_whole_is_found(
        value in "[ -~]{8,60}", before in "[ -~]{0,20}", behind in "[ -~]{0,20}",
    ) {
        let known = known(&[&value]);
        let text = format!("{before}{value}{behind}");
        let (span, _) = known.find(text.as_bytes(), 0).unwrap();
        prop_assert!(span.start <= before.len());
        for end in 1..value.len() {
            let text = format!("{before}{}", value.get(..end).unwrap());
            let alive = known.alive(text.as_bytes(), 0);
            let found = known.find(text.as_bytes(), 0);
            prop_assert!(alive.is_some_and(|at| at <= before.len()) || found.is_some(), "{text}");
        }
    }

    #[test]
    fn base64_of_a_value_among_others_is_found(
        before in proptest::collection::vec(any::<u8>(), 0..20),
        value in proptest::collection::vec(any::<u8>(), 8..60),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let known = Known::new([(0, value.clone())]);
        let all = [before, value, behind].concat();
        let text = encode(&all);
        prop_assert!(known.find(text.as_bytes(), 0).is_some(), "{text}");
    }
}

/// RFC 4648, by its text.
fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let get = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = get(0) << 16 | get(1) << 8 | get(2);
        for n in 0..4 {
            let sextet = bits >> (18 - 6 * n) & 63;
            out.push(if n > group.len() { '=' } else { ALPHABET[sextet as usize].into() });
        }
    }
    out
}
