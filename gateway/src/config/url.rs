//! A URL of a key or token endpoint: `https`, or `http` where a test or an operator says so.
//!
//! - input: a string of the configuration, of a provider's metadata, or of a job's environment
//! - output: [`HttpUrl`]
//! - bound: 2 KiB
//! - on failure: what is wrong with it; the text itself may come from a stranger and is not repeated

use std::net::IpAddr;

const MAX_BYTES: usize = 2048;

/// An absolute `http` or `https` URL without user name and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    https: bool,
    /// Lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
    /// As it goes into the `Host` field.
    authority: String,
    /// Path and query, beginning with `/`.
    target: String,
}

impl HttpUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// Says what is wrong, without repeating the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_BYTES {
            return Err("is longer than 2048 bytes");
        }
        if text.contains(['#', '@', '\\']) || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("has a user name, a fragment or a character that no URL has");
        }
        let uri: http::Uri = text.parse().map_err(|_invalid| "is not a URL")?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("does not begin with https://"),
        };
        let authority = uri.authority().ok_or("has no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        if host.is_empty() {
            return Err("has no host");
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(rest) => {
                let number = rest.strip_prefix(':').and_then(|digits| digits.parse().ok());
                number.filter(|port| *port != 0).ok_or("has no valid port")?
            }
            None => return Err("has no host"),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            https,
            host,
            port,
            authority: authority.as_str().to_owned(),
            target: format!("{slash}{target}"),
        })
    }

    /// Whether TLS protects it.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Host name in lower case, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, that of the scheme where none is given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Value of the `Host` field.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether it cannot leave this host. Names are not looked up: only addresses count.
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The same URL with `name=value` added to its query. Both are percent-encoded.
    #[must_use]
    pub fn with_query(mut self, name: &str, value: &str) -> Self {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let sign = if self.target.contains('?') { '&' } else { '?' };
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        self.target = format!("{}{sign}{name}={value}", self.target);
        self
    }

    /// The same host with the path extended by `path`, which begins with `/`; the query goes.
    #[must_use]
    pub fn below(mut self, path: &str) -> Self {
        let own = self.target.split('?').next().unwrap_or_default();
        self.target = format!("{}{path}", own.trim_end_matches('/'));
        self
    }
}

impl std::fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_parts_are_told_apart() {
        let url = HttpUrl::parse("https://Host.Example/a/b?c=d").unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("host.example", 443, "/a/b?c=d"));
        assert!(url.is_https() && !url.is_loopback());
        let url = HttpUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("::1", 8080, "/"));
        assert_eq!(url.authority(), "[::1]:8080");
        assert!(url.is_loopback() && !url.is_https());
        assert!(!HttpUrl::parse("http://localhost/").unwrap().is_loopback());
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for text in [
            "",
            "x",
            "/a",
            "ftp://h/",
            "https://",
            "https://u:p@h/",
            "https://h/#f",
            "https://h:0/",
            "https://h:99999/",
            "https://h\\@evil/",
            "https://h/a b",
            "https:///path",
        ] {
            assert!(HttpUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn queries_and_paths_are_added() {
        let url = HttpUrl::parse("https://h/t?api-version=2.0").unwrap();
        assert_eq!(
            url.clone().with_query("audience", "a b&c").target(),
            "/t?api-version=2.0&audience=a%20b%26c"
        );
        assert_eq!(url.below("/.well-known/x").target(), "/t/.well-known/x");
        assert_eq!(HttpUrl::parse("https://h/").unwrap().below("/x").target(), "/x");
        assert_eq!(HttpUrl::parse("https://h").unwrap().with_query("a", "b").target(), "/?a=b");
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".*") {
            if let Ok(url) = HttpUrl::parse(&text) {
                prop_assert!(url.target().starts_with('/') && !url.host().is_empty());
            }
        }
    }
}
