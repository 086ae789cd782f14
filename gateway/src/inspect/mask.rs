//! Removes credentials from heads and arguments before they are recorded: by the names of fields, and by
//! what values look like.
//!
//! - input: header fields, paths, query strings, arguments, judged bodies
//! - output: [`Masked`] values; names, order and number of fields stay
//! - bound: the head's own
//! - on failure: cannot fail

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use weir_inspect::engine::Engine;
use weir_inspect::known::Known;
use weir_inspect::placeholder;

/// Proof that masking had its say. Only this module makes one; `record` accepts nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked<T>(T);

impl<T> Masked<T> {
    /// The masked value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// What stands for a removed value.
pub const MASK: &str = "[masked]";

/// What is looked for beside names: rules, and known values.
#[derive(Clone, Debug)]
pub struct Lens {
    engine: Arc<Engine>,
    known: Known,
}

impl Lens {
    /// Of rules and values.
    pub fn new(engine: &Arc<Engine>, known: Known) -> Self {
        Self { engine: Arc::clone(engine), known }
    }

    /// Of neither.
    #[cfg(test)]
    pub(crate) fn of_names() -> Self {
        Self::new(&Arc::new(Engine::new(Vec::new()).unwrap()), Known::default())
    }

    /// A text without what looks like a secret.
    fn clean(&self, text: String) -> String {
        let mut out = String::new();
        let mut from = 0;
        for span in self.spans(text.as_bytes()) {
            // Spans of rules may cut a character, then more goes.
            let start = text.floor_char_boundary(span.start).max(from);
            out.push_str(text.get(from..start).unwrap_or_default());
            out.push_str(MASK);
            from = text.ceil_char_boundary(span.end);
        }
        out.push_str(text.get(from..).unwrap_or_default());
        if out.contains('%') {
            let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(&out).into();
            if self.spans(&decoded).next().is_some() {
                return MASK.to_owned();
            }
        }
        out
    }

    fn spans(&self, text: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.engine.find(text, &self.known).into_iter().filter_map(|found| {
            let value = text.get(found.span.clone())?;
            let is_masked = MASK.as_bytes().windows(value.len()).any(|part| part == value);
            (!is_masked && !placeholder::is_one(value)).then_some(found.span)
        })
    }
}

/// Fields whose value is a credential.
const CREDENTIAL_FIELDS: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-amz-security-token",
    "sec-websocket-protocol",
    "x-goog-iam-authorization-token",
    "private-token",
];

/// Words in the name of a field or parameter that make its value a credential.
const CREDENTIAL_WORDS: [&str; 12] = [
    "token",
    "secret",
    "passw",
    "apikey",
    "api-key",
    "api_key",
    "auth",
    "credential",
    "signature",
    "session",
    "private",
    "jwt",
];

/// Query parameters that are credentials although no word above is in their name.
const CREDENTIAL_PARAMETERS: [&str; 6] = ["key", "sig", "code", "pwd", "pat", "sas"];

/// Fields with such a word that carry no credential and are worth reading.
const HARMLESS_FIELDS: [&str; 5] = [
    "www-authenticate",
    "proxy-authenticate",
    "authentication-info",
    ":authority",
    "x-ratelimit-limit-tokens",
];

/// The registered schemes, and those of wide use.
const AUTHENTICATION_SCHEMES: [&str; 16] = [
    "basic",
    "bearer",
    "concealed",
    "digest",
    "dpop",
    "gnap",
    "hoba",
    "mutual",
    "negotiate",
    "ntlm",
    "oauth",
    "privatetoken",
    "token",
    "apikey",
    "aws4-hmac-sha256",
    "sharedkey",
];

/// Header fields in wire order of names, values of credentials masked.
pub fn headers(lens: &Lens, map: &HeaderMap) -> Masked<Vec<(String, String)>> {
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), lens.clean(field_value(name.as_str(), text)))
    };
    Masked(map.iter().map(field).collect())
}

fn field_value(name: &str, value: String) -> String {
    match name {
        "cookie" => value.split(';').map(cookie_pair).collect::<Vec<_>>().join(";"),
        "set-cookie" => match value.split_once(';') {
            Some((pair, attributes)) => format!("{};{attributes}", cookie_pair(pair)),
            None => cookie_pair(&value),
        },
        "authorization" | "proxy-authorization" => match value.split_once(' ') {
            // The scheme says how somebody authenticated; the rest is the secret.
            // Only schemes that are known: the first word of anything else may be the secret.
            Some((scheme, _)) if is_scheme(scheme) => format!("{scheme} {MASK}"),
            _ => MASK.to_owned(),
        },
        "location" | "content-location" | "referer" => url(&value),
        _ if is_credential_field(name) => MASK.to_owned(),
        _ => value,
    }
}

fn is_scheme(word: &str) -> bool {
    AUTHENTICATION_SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(word))
}

/// Whether a field of this name has a credential.
pub(super) fn is_credential_field(name: &str) -> bool {
    if HARMLESS_FIELDS.contains(&name) || name.starts_with("x-ratelimit-") {
        return false;
    }
    CREDENTIAL_FIELDS.contains(&name) || CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
}

fn cookie_pair(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    }
}

/// Any text.
pub fn text(lens: &Lens, text: String) -> Masked<String> {
    Masked(lens.clean(text))
}

/// A query string, without its `?`.
pub fn query(lens: &Lens, query: &str) -> Masked<String> {
    let by_name = mask_parameters(query);
    let parts = by_name.split('&').map(|part| lens.clean(part.to_owned()));
    Masked(parts.collect::<Vec<_>>().join("&"))
}

/// A path.
pub fn path(lens: &Lens, path: &str) -> Masked<String> {
    // Whole first: rules know what stands before a token.
    let whole = lens.clean(path.to_owned());
    if whole != MASK {
        return Masked(whole);
    }
    let parts = path.split('/').map(|part| lens.clean(part.to_owned()));
    // And last: what goes over several parts is in none of them.
    Masked(lens.clean(parts.collect::<Vec<_>>().join("/")))
}

fn mask_parameters(query: &str) -> String {
    let parameter = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_credential_parameter(name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    };
    query.split('&').map(parameter).collect::<Vec<_>>().join("&")
}

/// Whether a field or parameter of this name has a credential.
pub(super) fn is_credential_name(name: &str) -> bool {
    is_credential_parameter(name)
}

fn is_credential_parameter(name: &str) -> bool {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
    CREDENTIAL_PARAMETERS.contains(&&*name) || CREDENTIAL_WORDS.iter().any(|w| name.contains(w))
}

/// A URL in a field: its user information and its query.
fn url(value: &str) -> String {
    let (base, query) = match value.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (value, None),
    };
    let base = match base.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{MASK}@{host}{path}"),
                None => base.to_owned(),
            }
        }
        None => base.to_owned(),
    };
    match query {
        Some(query) => format!("{base}?{}", mask_parameters(query)),
        None => base,
    }
}

/// Options whose value, the next argument, is a credential.
const CREDENTIAL_OPTIONS: [&str; 8] =
    ["-u", "--user", "--password", "--proxy-user", "-U", "--pass", "--oauth2-bearer", "--cert"];

/// Command-line arguments: values of credential options, `NAME=VALUE` with a credential name,
/// header arguments, and what URLs carry.
pub fn argv(lens: &Lens, args: &[String]) -> Masked<Vec<String>> {
    let mut out = Vec::with_capacity(args.len());
    let mut value_next = false;
    for arg in args {
        let masked = if value_next { MASK.to_owned() } else { lens.clean(argument(arg)) };
        value_next = !value_next && is_credential_option(arg);
        out.push(masked);
    }
    Masked(out)
}

fn is_credential_option(arg: &str) -> bool {
    let named = arg.starts_with("--") && !arg.contains('=') && is_credential_parameter(arg);
    CREDENTIAL_OPTIONS.contains(&arg) || named
}

fn argument(arg: &str) -> String {
    if arg.contains("://") {
        return url(arg);
    }
    // `-H 'Name: value'` and `Name: value`.
    if let Some((name, value)) = arg.split_once(':') {
        let field = name.trim_start_matches("-H").trim().to_ascii_lowercase();
        if is_credential_field(&field) {
            return format!("{name}: {}", field_value(&field, value.trim().to_owned()));
        }
    }
    match arg.split_once('=') {
        Some((name, _)) if is_credential_parameter(name) || CREDENTIAL_OPTIONS.contains(&name) => {
            format!("{name}={MASK}")
        }
        _ => arg.to_owned(),
    }
}

/// A recorded body, made by [`super::recorded`].
pub(super) fn body(bytes: Vec<u8>) -> Masked<Vec<u8>> {
    Masked(bytes)
}

impl Masked<Vec<u8>> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same bytes in `hold`'s care.
    pub fn held_by(self, hold: impl FnOnce(Vec<u8>) -> Bytes) -> Masked<Bytes> {
        Masked(hold(self.0))
    }
}

impl Masked<Bytes> {
    /// A constant of the source: nobody's secret.
    pub const fn constant(text: &'static [u8]) -> Self {
        Self(Bytes::from_static(text))
    }

    /// Bytes that a test made up.
    #[cfg(test)]
    pub(crate) const fn made_up(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// At most `length` of them from `from` on.
    pub fn slice(&self, from: usize, length: usize) -> Self {
        let end = self.0.len().min(from.saturating_add(length));
        Self(self.0.slice(from.min(end)..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn lens() -> Lens {
        use weir_inspect::rule::{Confidence, Rule, Tier};
        let rule = Rule {
            id: "test-token".into(),
            description: String::new(),
            tier: Tier::Prefixed,
            confidence: Confidence::High,
            pattern: "tst_[a-z]{12}".into(),
            keywords: vec!["tst_".into()],
            filter: weir_inspect::filter::Filter::default(),
            hosts: Vec::new(),
            source: String::new(),
        };
        let known = Known::new([(0, b"a known value".to_vec())]);
        Lens::new(&Arc::new(Engine::new(vec![rule]).unwrap()), known)
    }

    #[test]
    fn values_that_look_like_secrets_go_wherever_they_stand() {
        assert_eq!(masked("x-plain", "a tst_abcdefghijkl b"), "a [masked] b");
        assert_eq!(masked("x-plain", "a known value"), "[masked]");
        let path = |text| path(&lens(), text).into_inner();
        assert_eq!(path("/bot/tst_abcdefghijkl/send"), "/bot/[masked]/send");
        assert_eq!(path("/bot/tst%5Fabcdefghijkl/send"), "/bot/[masked]/send");
        assert_eq!(path("/a%20known%20value"), "/[masked]");
        assert_eq!(path("/a/b%20c"), "/a/b%20c");
        let values = [b"some/value (a)".to_vec(), b"another value".to_vec()];
        let two = Lens::new(&lens().engine, Known::new((0..).zip(values)));
        let text = "/some/v%61lue%20(a)/another%20value";
        assert_eq!(super::path(&two, text).into_inner(), MASK);
        let query = |text| query(&lens(), text).into_inner();
        assert_eq!(query("a=tst_abcdefghijkl&b=2"), "a=[masked]&b=2");
        assert_eq!(query("a=tst%5fabcdefghijkl&b=2"), "[masked]&b=2");
        let args = ["run", "tst_abcdefghijkl"].map(str::to_owned);
        assert_eq!(argv(&lens(), &args).into_inner(), ["run", "[masked]"]);
    }

    fn masked(name: &'static str, value: &str) -> String {
        let mut map = HeaderMap::new();
        map.insert(name, HeaderValue::from_str(value).expect("value"));
        headers(&lens(), &map).into_inner().remove(0).1
    }

    #[test]
    fn credentials_go_and_the_shape_stays() {
        for (name, value, want) in [
            ("authorization", "Bearer abc.def", "Bearer [masked]"),
            ("authorization", "abcdef", "[masked]"),
            ("cookie", "sid=1; theme=dark", "sid=[masked]; theme=[masked]"),
            ("set-cookie", "sid=1; Path=/; HttpOnly", "sid=[masked]; Path=/; HttpOnly"),
            ("x-api-key", "k", "[masked]"),
            ("x-goog-api-key", "k", "[masked]"),
            ("location", "https://u:p@h/x?code=1&b=2", "https://[masked]@h/x?code=[masked]&b=2"),
            ("content-type", "text/plain", "text/plain"),
            ("www-authenticate", "Basic realm=x", "Basic realm=x"),
        ] {
            assert_eq!(masked(name, value), want, "{name}");
        }
    }

    #[test]
    fn credential_parameters_go_also_when_their_name_is_encoded() {
        let q =
            query(&lens(), "a=1&access_token=s3cret&X-Amz-Signature=s3cret&%6bey=s3cret&page=2")
                .into_inner();
        assert!(!q.contains("s3cret"), "{q}");
        assert!(q.contains("a=1") && q.contains("page=2"), "{q}");
    }

    #[test]
    fn arguments_lose_credentials() {
        let args = |args: &[&str]| {
            argv(&lens(), &args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
                .into_inner()
                .join(" ")
        };
        let curl = ["curl", "-H", "Authorization: Bearer s3cret", "-u", "me:s3cret", "https://a/"];
        assert_eq!(args(&curl), "curl -H Authorization: Bearer [masked] -u [masked] https://a/");
        for hidden in [
            &["git", "clone", "https://me:s3cret@h/r"][..],
            &["tool", "--api-key", "s3cret"],
            &["tool", "--token=s3cret"],
            &["curl", "--user=me:s3cret"],
            &["env", "GITHUB_TOKEN=s3cret", "sh"],
            &["curl", "https://h/?access_token=s3cret"],
        ] {
            assert!(!args(hidden).contains("s3cret"), "{}", args(hidden));
        }
        assert_eq!(args(&["make", "-j2", "CC=gcc", "a:b"]), "make -j2 CC=gcc a:b");
    }

    proptest! {
        #[test]
        fn no_credential_value_survives(secret in "[A-Za-z0-9]{12,40}") {
            for name in ["authorization", "cookie", "set-cookie", "x-api-key", "private-token"] {
                for value in [secret.clone(), format!("Bearer {secret}"), format!("a={secret}; b={secret}")] {
                    let out = masked(name, &value);
                    // `Set-Cookie` attributes are not secret; the pair before them is.
                    let out = if name == "set-cookie" { out.split(';').next().unwrap_or("").to_owned() } else { out };
                    prop_assert!(!out.contains(&secret), "{name}: {out}");
                }
            }
        }
    }
}
