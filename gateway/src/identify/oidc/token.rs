//! Takes a compact JWS (RFC 7515 section 3.1) apart. Nothing here is verified.
//!
//! - input: text from anybody
//! - output: [`Parts`]
//! - bound: `limits::MAX_TOKEN_BYTES`; JSON nested at most 128 deep (serde_json)
//! - on failure: [`TokenError::TooLarge`], [`TokenError::Malformed`]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::TokenError;
use crate::limits::MAX_TOKEN_BYTES;

/// A token in parts. None of it may be believed. No `Debug`: it holds the signature.
pub struct Parts<'a> {
    /// What is signed: header and payload as they were sent.
    pub signed: &'a str,
    /// The header fields that matter. `jwk`, `jku`, `x5u` and `x5c` are not read: a token does not
    /// bring its own key.
    pub header: Header,
    /// All claims.
    pub claims: Map<String, Value>,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

/// Header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Algorithm.
    pub alg: Option<String>,
    /// Key id.
    pub kid: Option<String>,
    /// Type of token.
    pub typ: Option<String>,
    /// Whether there is a `crit`.
    pub critical: bool,
}

/// Takes a token apart.
///
/// # Errors
/// See the module's header.
pub fn parse(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLarge);
    }
    let wrong = TokenError::Malformed("it has not three parts");
    let Some((signed, signature)) = token.rsplit_once('.') else { return Err(wrong) };
    let Some((header, payload)) = signed.split_once('.') else { return Err(wrong) };
    if payload.contains('.') {
        return Err(wrong);
    }
    let header = object(header, "its header is not a json object")?;
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Malformed("its header is ill-typed")),
    };
    Ok(Parts {
        signed,
        header: Header {
            alg: text("alg")?,
            kid: text("kid")?,
            typ: text("typ")?,
            critical: header.contains_key("crit"),
        },
        claims: object(payload, "its claims are not a json object")?,
        signature: decode(signature, "its signature is not base64url")?,
    })
}

/// Whether a text has the shape of a token and is worth parsing: cheap, for searching.
pub fn looks_like_one(text: &str) -> bool {
    let char = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    text.len() <= MAX_TOKEN_BYTES
        // `{"` in base64url.
        && text.starts_with("eyJ")
        && text.bytes().filter(|c| *c == b'.').count() == 2
        && text.bytes().all(char)
}

fn decode(part: &str, wrong: &'static str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_invalid| TokenError::Malformed(wrong))
}

fn object(part: &str, wrong: &'static str) -> Result<Map<String, Value>, TokenError> {
    let bytes = decode(part, wrong)?;
    match serde_json::from_slice::<Strict>(&bytes) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) | Err(_) => Err(TokenError::Malformed(wrong)),
    }
}

/// A JSON value in which no object has a name twice: two parsers could take two values from one
/// token (RFC 8725 section 2.4 is about the same kind of doubt).
pub(crate) struct Strict(pub(crate) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictVisitor.deserialize(deserializer).map(Self)
    }
}

struct StrictVisitor;

impl<'de> DeserializeSeed<'de> for StrictVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("json without a name twice")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(Self)? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Self)?;
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a name twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(claims), encode("signature"))
    }

    fn outcome(text: &str) -> &'static str {
        use crate::error::Faulty as _;
        parse(text).err().map_or("ok", |e| e.outcome())
    }

    #[test]
    fn the_parts_are_what_was_sent() {
        let text = token(
            r#"{"alg":"RS256","kid":"k","jwk":{},"jku":5}"#,
            r#"{"a":[1,-2,1.5,{"b":null}]}"#,
        );
        let parts = parse(&text).ok().unwrap();
        assert_eq!(parts.header.alg.as_deref(), Some("RS256"));
        assert_eq!(parts.claims.get("a"), Some(&serde_json::json!([1, -2, 1.5, {"b": null}])));
        assert_eq!(parts.signature, b"signature");
        assert!(text.starts_with(parts.signed) && looks_like_one(&text));
    }

    #[test]
    fn shapes_that_are_no_tokens_are_refused() {
        for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é"] {
            assert_eq!(outcome(text), "token_malformed", "{text}");
        }
        for (header, claims) in [
            ("[]", "{}"),
            ("{}", "7"),
            ("{}", r#"{"a":1,"a":2}"#),
            ("{}", r#"{"a":{"b":1,"b":1}}"#),
            (r#"{"alg":1}"#, "{}"),
            (r#"{"alg":"none","alg":"RS256"}"#, "{}"),
            ("{}", "{} x"),
        ] {
            assert_eq!(outcome(&token(header, claims)), "token_malformed", "{header} {claims}");
        }
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        let deep = token("{}", &format!("{{\"a\":{deep}}}"));
        assert_eq!(outcome(&deep), "token_malformed");
        assert_eq!(outcome(&"a".repeat(MAX_TOKEN_BYTES + 1)), "token_too_large");
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".*") {
            prop_assert!(parse(&text).is_err() || text.matches('.').count() == 2);
        }

        #[test]
        fn any_json_is_answered_without_panic(header in ".{0,40}", claims in ".{0,80}") {
            let text = token(&header, &claims);
            let is_object = claims.trim_start().starts_with(char::from(b'{'));
            prop_assert!(parse(&text).is_err() || is_object);
        }
    }
}
