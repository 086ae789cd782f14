//! What stands in the place of a secret that is to come back.
//!
//! - input: a scope's key, a secret
//! - output: a text of the secret's shape, the same for the same secret in one scope
//! - bound: [`MAX_BYTES`]
//! - on failure: cannot fail
//!
//! ```text
//! ghp_   WEIR      7Q2KX4M3JD5NAB   5F     QWERTY…
//! kind   sentinel  keyed hash       check  keyed hash, up to the secret's length
//! ```
//!
//! The kind is public: a provider's prefix, from the list below, never a part of the secret itself. What
//! a provider checks of its tokens does not hold for a placeholder: sent by mistake, it is refused.

use sha2::{Digest as _, Sha256};

use crate::fingerprint::ScopeKey;

/// Longest placeholder. Of a longer secret it has [`LONG_BYTES`].
pub const MAX_BYTES: usize = 200;
const LONG_BYTES: usize = 64;
/// In every placeholder.
pub const SENTINEL: &str = "WEIR";
/// 70 bits of the hash.
const TAG_CHARS: usize = 14;
/// 10 bits, so that other text is not taken for a placeholder.
const CHECK_CHARS: usize = 2;
/// Further characters when two secrets meet in one placeholder.
const EXTENSION_CHARS: usize = 16;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const PEM_BEGIN: &str = "-----BEGIN WEIR PLACEHOLDER-----";
const PEM_END: &str = "-----END WEIR PLACEHOLDER-----";
/// GitHub's and npm's tokens end in so many characters of a checksum, the first of which is a digit.
const CHECKSUM_CHARS: usize = 6;

/// Prefixes that say of which kind a secret is. The longest that fits counts.
const KINDS: [&str; 84] = [
    "AIza",
    "AKIA",
    "ASIA",
    "ATATT3xFfGF0",
    "ATCTT3xFfGF0",
    "EAA",
    "FLWSECK-",
    "FLWSECK_TEST-",
    "GOCSPX-",
    "GR1348941",
    "LTAI",
    "NRAK-",
    "PMAK-",
    "SG.",
    "SK",
    "api_org_",
    "ccpat_",
    "dapi",
    "dckr_pat_",
    "doo_v1_",
    "dop_v1_",
    "dor_v1_",
    "dp.pt.",
    "eyJ",
    "fig-",
    "figd_",
    "fm1_",
    "fo1_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glagent-",
    "glcbt-",
    "gldt-",
    "glft-",
    "glptt-",
    "glpat-",
    "glrt-",
    "glsa_",
    "gsk_",
    "hf_",
    "hvb.",
    "hvs.",
    "lin_api_",
    "lin_oauth_",
    "live_",
    "nfp_",
    "npm_",
    "ntn_",
    "nvapi-",
    "pat-",
    "pcsk_",
    "pk_live_",
    "pplx-",
    "pscale_tkn_",
    "pypi-",
    "r8_",
    "rdme_",
    "rk_live_",
    "rk_test_",
    "rubygems_",
    "secret_",
    "shpat_",
    "shpss_",
    "sk-",
    "sk-admin-",
    "sk-ant-",
    "sk-ant-admin01-",
    "sk-ant-api03-",
    "sk-ant-oat01-",
    "sk-or-v1-",
    "sk-proj-",
    "sk-svcacct-",
    "sk_live_",
    "sk_test_",
    "sntrys_",
    "tskey-",
    "whsec_",
    "xai-",
    "xoxb-",
    "xoxp-",
];

/// The placeholder of a secret in a scope. `attempt` counts the secrets of the scope that have this one
/// already: each makes it longer.
pub fn of(key: &ScopeKey, secret: &[u8], attempt: u8) -> String {
    let extension = usize::from(attempt) * EXTENSION_CHARS;
    if secret.contains(&b'\n') {
        let tag = tag(key, secret, attempt, extension);
        return format!("{PEM_BEGIN}{SENTINEL}{tag}{PEM_END}");
    }
    let kind = kind(secret);
    let least = kind.len() + SENTINEL.len() + TAG_CHARS + CHECK_CHARS;
    let length = if secret.len() > MAX_BYTES { LONG_BYTES } else { secret.len() };
    let more = length.saturating_sub(least) + extension;
    format!("{kind}{SENTINEL}{}", tag(key, secret, attempt, more))
}

/// Hash, check, and `more` characters of hash.
fn tag(key: &ScopeKey, secret: &[u8], attempt: u8, more: usize) -> String {
    let mut hash = String::new();
    let mut round = attempt.wrapping_mul(8);
    while hash.len() < TAG_CHARS + more {
        hash.push_str(&base32(&key.bits(b"weir placeholder 1", round, secret)));
        round = round.wrapping_add(1);
    }
    hash.truncate(TAG_CHARS + more);
    let (tag, rest) = hash.split_at(TAG_CHARS);
    let mut rest = rest.to_owned();
    if let Some(at) = rest.len().checked_sub(CHECKSUM_CHARS) {
        // No checksum begins with a letter.
        let first = rest.get(at..=at).map_or("A", letter);
        rest.replace_range(at..=at, first);
    }
    format!("{tag}{}{rest}", check(tag))
}

/// A digit of the alphabet as a letter.
fn letter(text: &str) -> &'static str {
    match text {
        "2" | "3" => "R",
        "4" | "5" => "T",
        "6" | "7" => "V",
        other => LETTERS.iter().find(|one| **one == other).copied().unwrap_or("A"),
    }
}

const LETTERS: [&str; 26] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S",
    "T", "U", "V", "W", "X", "Y", "Z",
];

fn check(tag: &str) -> String {
    let digest = Sha256::digest([SENTINEL.as_bytes(), tag.as_bytes()].concat());
    let mut text = base32(&digest);
    text.truncate(CHECK_CHARS);
    text
}

fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 8 / 5);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            let at = usize::try_from(held >> bits & 31).unwrap_or_default();
            out.push(ALPHABET.get(at).copied().unwrap_or(b'A').into());
        }
    }
    out
}

fn kind(secret: &[u8]) -> &'static str {
    let fits = KINDS.iter().filter(|kind| secret.starts_with(kind.as_bytes()));
    // A short secret that happens to begin so is not of that kind.
    let fits = fits.filter(|kind| secret.len() >= kind.len() + TAG_CHARS);
    fits.max_by_key(|kind| kind.len()).copied().unwrap_or_default()
}

/// Whether this is a placeholder, of whatever scope, and nothing else.
pub fn is_one(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    if let Some(inner) = text.strip_prefix(PEM_BEGIN) {
        let tag = inner.strip_suffix(PEM_END).and_then(|inner| inner.strip_prefix(SENTINEL));
        return tag.is_some_and(is_tag);
    }
    let Some((kind, tag)) = text.split_once(SENTINEL) else { return false };
    (kind.is_empty() || KINDS.contains(&kind)) && is_tag(tag)
}

fn is_tag(text: &str) -> bool {
    let all = text.bytes().all(|byte| ALPHABET.contains(&byte));
    let (tag, rest) = (text.get(..TAG_CHARS), text.get(TAG_CHARS..));
    all && tag.zip(rest).is_some_and(|(tag, rest)| rest.starts_with(&check(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Key;
    use proptest::prelude::*;

    fn scope(name: &[u8]) -> ScopeKey {
        Key::new(vec![7; 32]).unwrap().scope(name)
    }

    #[test]
    fn a_placeholder_has_the_shape_of_its_secret() {
        let secrets = [
            ("ghp_0123456789abcdefghijklmnopqrstuvwxyz", "ghp_WEIR"),
            ("sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789-AA", "sk-ant-api03-WEIR"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIAWEIR"),
            ("correct horse battery staple", "WEIR"),
        ];
        for (secret, begins) in secrets {
            let one = of(&scope(b"a"), secret.as_bytes(), 0);
            assert!(one.starts_with(begins), "{one}");
            assert!(one.len() >= secret.len() && one.len() <= secret.len().max(24), "{one}");
            assert!(is_one(one.as_bytes()), "{one}");
        }
        let pem = b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";
        let one = of(&scope(b"a"), pem, 0);
        assert!(!one.contains('\n') && is_one(one.as_bytes()), "{one}");
        assert_eq!(of(&scope(b"a"), &[b'x'; 5000], 0).len(), LONG_BYTES);
    }

    #[test]
    fn a_prefix_that_is_no_kind_is_not_told() {
        let one = of(&scope(b"a"), b"my-secret-password-is-long", 0);
        assert!(one.starts_with("WEIR"), "{one}");
    }

    #[test]
    fn the_checksum_of_a_github_token_cannot_hold() {
        for n in 0..500 {
            let secret = format!("ghp_{n:036}");
            let one = of(&scope(b"a"), secret.as_bytes(), 0);
            assert_eq!(one.len(), 40);
            // A CRC-32 is below 5 * 62^5, so that in six base62 digits its first is 0 to 4.
            assert!(one.as_bytes()[34].is_ascii_uppercase(), "{one}");
        }
    }

    #[test]
    fn other_text_is_no_placeholder() {
        let one = of(&scope(b"a"), b"ghp_0123456789abcdefghijklmnopqrstuvwxyz", 0);
        assert!(is_one(one.as_bytes()));
        let (head, tail) = one.split_at(12);
        let changed = format!(
            "{head}{}{}",
            if tail.starts_with('A') { "B" } else { "A" },
            tail.get(1..).unwrap()
        );
        for text in [
            "",
            "WEIR",
            "ghp_WEIR",
            "WEIRD",
            "ghp_WEIRABCDEFGHIJKLMNOP",
            &changed,
            one.get(..20).unwrap(),
            &format!("x{one}"),
            &format!("{one}-"),
            &one.to_lowercase(),
        ] {
            assert!(!is_one(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_placeholder_is_stable_and_says_nothing_of_its_secret(
            secret in "[ -~]{8,300}", other in "[ -~]{8,300}", attempt in 0_u8..3,
        ) {
            let (a, b) = (scope(b"a"), scope(b"b"));
            let one = of(&a, secret.as_bytes(), attempt);
            prop_assert_eq!(&one, &of(&a, secret.as_bytes(), attempt));
            prop_assert_ne!(&one, &of(&b, secret.as_bytes(), attempt));
            prop_assert_ne!(&one, &of(&a, secret.as_bytes(), attempt + 1));
            prop_assert_ne!(one.as_bytes(), secret.as_bytes());
            prop_assert!(is_one(one.as_bytes()), "{one}");
            prop_assert!(one.len() <= MAX_BYTES + 64);
            if secret != other {
                let two = of(&a, other.as_bytes(), attempt);
                prop_assert_ne!(&one, &two);
                // Behind the public kind, nothing depends on anything but the keyed hash: two
                // secrets with the same end or beginning do not share it.
                let after = |text: &str| text.split_once(SENTINEL).map(|(_, tag)| tag.get(..8).unwrap().to_owned());
                prop_assert_ne!(after(&one), after(&two));
            }
        }

        #[test]
        fn nothing_is_taken_for_a_placeholder(text in "[A-Z2-7]{4,60}") {
            // One in 1024 of those with the sentinel at their head.
            prop_assume!(!text.contains(SENTINEL));
            prop_assert!(!is_one(text.as_bytes()));
        }
    }
}
