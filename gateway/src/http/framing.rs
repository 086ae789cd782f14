//! Fields that describe a body, corrected when another body takes its place.
//!
//! - input: the head of a message whose body is read, changed or filtered
//! - output: the head without what is no longer true
//! - bound: the head's own
//! - on failure: cannot fail
//!
//! RFC 9110 sections 8 (representation data), 8.8.3 (entity tags) and 14 (ranges), RFC 9530
//! (digest fields).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// Fields with a checksum of the body, or a wish for one.
const DIGESTS: [HeaderName; 6] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("want-content-digest"),
    HeaderName::from_static("want-repr-digest"),
];

/// Content encodings that are read; a server that knows none of them sends the body as it is.
const READABLE: [&str; 6] = ["gzip", "x-gzip", "deflate", "br", "zstd", "identity"];

/// A request whose answer will be read: no part of it, and in no encoding that is not understood.
pub fn ask_readable(headers: &mut HeaderMap) {
    headers.remove(header::RANGE);
    headers.remove(header::IF_RANGE);
    for name in DIGESTS.iter().filter(|name| name.as_str().starts_with("want-")) {
        headers.remove(name);
    }
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return;
    }
    let mut kept = Vec::new();
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        let items = value.to_str().unwrap_or_default().split(',').map(str::trim);
        kept.extend(items.filter(|item| is_readable(item)).map(str::to_owned));
    }
    let value = if kept.is_empty() { "identity".to_owned() } else { kept.join(", ") };
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

/// `gzip;q=0.5`; a star would allow what is not understood.
fn is_readable(item: &str) -> bool {
    let coding = item.split(';').next().unwrap_or_default().trim();
    READABLE.iter().any(|readable| readable.eq_ignore_ascii_case(coding))
}

/// A request that is sent when its body is whole: nobody waits for a 100 any more.
pub fn sent_whole(headers: &mut HeaderMap) {
    headers.remove(header::EXPECT);
}

/// A message whose body was changed to one of `length` bytes, or of a length that is not known
/// yet.
pub fn changed(headers: &mut HeaderMap, length: Option<u64>) {
    for name in DIGESTS {
        headers.remove(name);
    }
    match length {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

/// An answer that is not byte for byte upstream's, or may not be: caches must not put parts of it
/// together, or take it for the same as upstream's.
pub fn weaken(headers: &mut HeaderMap) {
    headers.remove(header::ACCEPT_RANGES);
    let Some(tag) = headers.get(header::ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => headers.insert(header::ETAG, weak),
        Err(_unprintable) => headers.remove(header::ETAG),
    };
}

/// Whether an answer has no body, whatever its fields say (RFC 9112 section 6.3).
pub fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_readable_encodings_and_no_ranges_are_asked_for() {
        for (sent, want) in [
            ("gzip, sdch, br;q=0.5", "gzip, br;q=0.5"),
            ("*", "identity"),
            ("compress, GZIP;q=1.0", "GZIP;q=1.0"),
            ("identity;q=0, gzip", "identity;q=0, gzip"),
        ] {
            let mut map = headers(&[("range", "bytes=0-1"), ("if-range", "\"a\"")]);
            map.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(sent));
            ask_readable(&mut map);
            assert_eq!(
                map.get(header::ACCEPT_ENCODING).map(|v| v.as_bytes()),
                Some(want.as_bytes())
            );
            assert_eq!(map.len(), 1, "{map:?}");
        }
        let mut silent = HeaderMap::new();
        ask_readable(&mut silent);
        assert!(
            silent.is_empty(),
            "who asks for nothing gets identity or gzip by upstream's choice"
        );
    }

    #[test]
    fn digests_go_and_the_length_is_that_of_the_new_body() {
        let sent = [
            ("content-md5", "x"),
            ("digest", "sha-256=x"),
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
            ("content-length", "10"),
            ("content-type", "text/plain"),
        ];
        let mut map = headers(&sent);
        changed(&mut map, Some(12));
        assert_eq!(map, headers(&[("content-length", "12"), ("content-type", "text/plain")]));
        changed(&mut map, None);
        assert_eq!(map, headers(&[("content-type", "text/plain")]));
    }

    #[test]
    fn entity_tags_become_weak_and_ranges_are_not_offered() {
        let mut map = headers(&[("etag", "\"a\""), ("accept-ranges", "bytes")]);
        weaken(&mut map);
        assert_eq!(map, headers(&[("etag", "W/\"a\"")]));
        weaken(&mut map);
        assert_eq!(map, headers(&[("etag", "W/\"a\"")]));
    }
}
