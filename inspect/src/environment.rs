//! Which values of a process's environment are secrets.
//!
//! - input: `NAME=value` with a zero byte after each, as procfs shows an environment
//! - output: names and values that look like secrets
//! - bound: [`MAX_VALUES`], each at most `limits::MAX_VALUE_BYTES`
//! - on failure: cannot fail; what is not understood is no secret
//!
//! A value that stands in every text by chance would make every message a finding: what people choose as an
//! example, names of files, and words are not taken.

use crate::known::MIN_VALUE_BYTES;
use crate::limits::MAX_VALUE_BYTES;

/// Values of one process.
pub const MAX_VALUES: usize = 64;
/// Words, one of which is in the name of a variable that holds a secret.
const NAMES: [&str; 7] = ["token", "secret", "key", "pass", "credential", "pwd", "auth"];
/// Ends of names of variables that say where a secret is, or what of it is public.
const NOT_NAMES: [&str; 11] =
    ["path", "file", "dir", "home", "url", "uri", "sock", "name", "type", "format", "endpoint"];
/// Variables of shells and terminals with such a word.
const NEVER: [&str; 6] =
    ["ssh_auth_sock", "xauthority", "keymap", "keyboard", "passenv", "gpg_key"];
/// What people write where a secret is wanted.
const COMMON: [&str; 16] = [
    "changeme",
    "changeit",
    "password",
    "passw0rd",
    "password1",
    "postgres",
    "administrator",
    "undefined",
    "localhost",
    "example",
    "disabled",
    "required",
    "redacted",
    "not-used",
    "deadbeef",
    "testtest",
];
/// Different bytes, and Shannon's bits for each byte of the value.
const MIN_DIFFERENT: usize = 5;
const MIN_BITS: f64 = 2.3;
/// Letters of one case alone are a word up to this length.
const MAX_WORD_BYTES: usize = 15;

/// The secrets of an environment, first come first.
pub fn secrets(environment: &[u8]) -> Vec<(&str, &[u8])> {
    let entries = environment.split(|byte| *byte == 0).filter_map(|entry| {
        let equals = entry.iter().position(|byte| *byte == b'=')?;
        let name = std::str::from_utf8(entry.get(..equals)?).ok()?;
        Some((name, entry.get(equals + 1..)?))
    });
    entries.filter(|(name, value)| is_name(name) && is_value(value)).take(MAX_VALUES).collect()
}

fn is_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = |end: &&str| name.strip_suffix(end).is_some_and(|rest| rest.ends_with(['_', '.']));
    NAMES.iter().any(|word| name.contains(word))
        && !NOT_NAMES.iter().any(ends)
        && !NEVER.contains(&name.as_str())
}

/// Whether a value looks like a secret.
pub fn is_value(value: &[u8]) -> bool {
    if !(MIN_VALUE_BYTES..=MAX_VALUE_BYTES).contains(&value.len()) {
        return false;
    }
    let lower = value.to_ascii_lowercase();
    let is_common = COMMON.iter().any(|one| one.as_bytes() == lower);
    let is_word = value.len() <= MAX_WORD_BYTES
        && (value.iter().all(u8::is_ascii_lowercase) || value.iter().all(u8::is_ascii_uppercase));
    let is_place = value.starts_with(b"/") || value.starts_with(b"./") || value.starts_with(b"~/");
    let is_number = value.len() < 12 && value.iter().all(u8::is_ascii_digit);
    let is_reference = value.starts_with(b"${") || value.starts_with(b"$(");
    !(is_common || is_word || is_place || is_number || is_reference) && is_mixed(value)
}

fn is_mixed(value: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    for byte in value {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let length = f64::from(u32::try_from(value.len()).unwrap_or(u32::MAX));
    let shares = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / length);
    let bits: f64 = shares.map(|share| -share * share.log2()).sum();
    counts.iter().filter(|count| **count > 0).count() >= MIN_DIFFERENT && bits >= MIN_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(environment: &str) -> Vec<&str> {
        secrets(environment.as_bytes()).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn secrets_are_known_by_name_and_value() {
        let environment = "PATH=/usr/bin\0GITHUB_TOKEN=ghs_16C7e42F292c6912E7\0EMPTY_TOKEN=\0\
            DB_PASSWORD=Tr0ub4dor&3\0aws_secret_access_key=wJalrXUtnFEMI/K7MDENG\0NOKEY\0\
            API_KEY=0a1b2c3d4e5f6071\0HOME=/root0123456789abc\0";
        let want = ["GITHUB_TOKEN", "DB_PASSWORD", "aws_secret_access_key", "API_KEY"];
        assert_eq!(names(environment), want);
    }

    #[test]
    fn what_stands_everywhere_is_none() {
        for entry in [
            "SSH_AUTH_SOCK=/tmp/ssh-XXXX/agent.1",
            "KEY_FILE=ghs_16C7e42F292c6912E7",
            "TOKEN_URL=https://id.example/oauth/token",
            "PASSWORD=password",
            "PASSWORD=ChangeMe",
            "SECRET=aaaaaaaaaaaaaaaa",
            "SECRET=development",
            "KEY=20261121",
            "TOKEN=short1",
            "TOKEN=${OTHER_TOKEN_1}",
            "PRIVATE_KEY=/etc/ssl/private/key.pem",
        ] {
            assert!(names(entry).is_empty(), "{entry}");
        }
    }

    #[test]
    fn there_are_no_more_than_the_bound() {
        let many: String = (0..100).map(|n| format!("TOKEN_{n}=a1B2c3D4e5{n:03}\0")).collect();
        assert_eq!(names(&many).len(), MAX_VALUES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (name, value) in secrets(&bytes) {
                prop_assert!(!name.is_empty() && value.len() >= MIN_VALUE_BYTES);
            }
        }
    }
}
