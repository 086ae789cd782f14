//! Paths and query strings as dockerd reads them, and as nobody else could read them.
//!
//! - input: the request target of a captured caller
//! - output: segments, pairs, a new query string
//! - bound: the head's own
//! - on failure: [`DockerError::Malformed`] for what has more than one reading

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::DockerError;

/// Segments of a path without the API version: `/v1.41/containers/x/start` is
/// `containers`, `x`, `start`.
///
/// # Errors
/// Escapes, empty and dot segments: dockerd decodes and cleans a path before it looks at it.
pub fn segments(path: &str) -> Result<Vec<&str>, DockerError> {
    let odd = |what: &str| DockerError::Malformed(format!("path {path:?} has {what}"));
    if path.contains('%') {
        return Err(odd("an escape"));
    }
    let rest = path.strip_prefix('/').ok_or_else(|| odd("no slash"))?;
    let mut all: Vec<&str> = rest.split('/').collect();
    if all.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
        return Err(odd("an empty segment or dots"));
    }
    let is_version = |text: &&str| {
        let digits = text.strip_prefix('v').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    if all.first().is_some_and(is_version) {
        all.remove(0);
    }
    Ok(all)
}

/// Decoded pairs of a query string.
///
/// # Errors
/// A semicolon, which Go once took for a separator, and text that is not UTF-8.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, DockerError> {
    if query.contains(';') {
        return Err(DockerError::Malformed("the query has a semicolon".into()));
    }
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8().map(|text| text.into_owned());
        decoded.map_err(|error| DockerError::Malformed(format!("the query is not UTF-8: {error}")))
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The query string of pairs.
pub fn written(pairs: &[(String, String)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let all: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    all.join("&")
}

/// All values of a name.
pub fn values<'a>(pairs: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_reading_or_none() {
        assert_eq!(segments("/v1.41/containers/create").unwrap(), ["containers", "create"]);
        assert_eq!(segments("/_ping").unwrap(), ["_ping"]);
        for odd in ["/containers/%63reate", "//containers", "/a/../b", "/a/", "", "/", "a"] {
            assert!(segments(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn pairs_are_read_and_written() {
        let read = pairs("a=1&b=x%2Fy+z&a=2&c").unwrap();
        assert_eq!(values(&read, "a"), ["1", "2"]);
        assert_eq!(values(&read, "b"), ["x/y z"]);
        assert_eq!(pairs(&written(&read)).unwrap(), read);
        assert!(pairs("a=1;b=2").is_err());
        assert!(pairs("a=%ff").is_err());
        assert_eq!(pairs("").unwrap(), []);
    }
}
