//! All claims of a token as a flat map of texts, flags and lists.
//!
//! - input: the claims of a token whose signature verified
//! - output: [`Claims`]
//! - bound: `limits::MAX_CLAIMS` entries, objects nested at most four deep; texts are bounded by the
//!   size of the token
//! - on failure: [`TokenError::Malformed`], [`TokenError::TooLong`]

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::TokenError;
use crate::limits::MAX_CLAIMS;

const MAX_DEPTH: usize = 4;

/// The value of one claim. Untrusted text: the provider vouches for its origin, not its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A string, or a number as it is written.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
    /// A list of strings and numbers; other entries are left out.
    List(Vec<String>),
}

impl Claim {
    /// Whether it is this value, or a list with it.
    pub fn has(&self, value: &str) -> bool {
        match self {
            Self::Text(text) => text == value,
            Self::Flag(flag) => value == if *flag { "true" } else { "false" },
            Self::List(all) => all.iter().any(|one| one == value),
        }
    }
}

/// Claims by name; `a.b` is claim `b` inside the object `a`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, Claim>);

impl Claims {
    /// Flattens the claims of a token. `null` is as good as absent.
    pub(super) fn new(claims: &Map<String, Value>) -> Result<Self, TokenError> {
        let mut all = Self::default();
        all.add("", claims, 0)?;
        Ok(all)
    }

    /// One claim.
    pub fn claim(&self, name: &str) -> Option<&Claim> {
        self.0.get(name)
    }

    /// One claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Claim::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Claim)> {
        self.0.iter().map(|(name, claim)| (name.as_str(), claim))
    }

    fn add(&mut self, at: &str, map: &Map<String, Value>, depth: usize) -> Result<(), TokenError> {
        if depth >= MAX_DEPTH {
            return Err(TokenError::Malformed("its claims are nested too deep"));
        }
        for (name, value) in map {
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            let claim = match value {
                Value::Null => continue,
                Value::Object(inner) => {
                    self.add(&path, inner, depth + 1)?;
                    continue;
                }
                Value::Bool(flag) => Claim::Flag(*flag),
                Value::String(text) => Claim::Text(text.clone()),
                Value::Number(number) => Claim::Text(number.to_string()),
                Value::Array(all) => Claim::List(all.iter().filter_map(scalar).collect()),
            };
            // "a.b" beside {"a": {"b": ..}}: nobody may choose which one counts.
            if self.0.insert(path, claim).is_some() {
                return Err(TokenError::Malformed("it has a claim twice"));
            }
            if self.0.len() > MAX_CLAIMS {
                return Err(TokenError::Malformed("it has too many claims"));
            }
        }
        Ok(())
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Result<Claims, TokenError> {
        Claims::new(value.as_object().unwrap())
    }

    #[test]
    fn objects_are_opened_and_values_compared_as_text() {
        let all = claims(json!({
            "kubernetes.io": {"pod": {"uid": "u"}, "namespace": "n"},
            "runner_id": 7, "protected": true, "groups": ["a", 5, {"x": 1}], "none": null,
        }))
        .unwrap();
        assert_eq!(all.text("kubernetes.io.pod.uid"), Some("u"));
        assert!(all.claim("runner_id").unwrap().has("7"));
        assert!(all.claim("protected").unwrap().has("true"));
        assert!(all.claim("groups").unwrap().has("5") && !all.claim("groups").unwrap().has("x"));
        assert_eq!((all.claim("none"), all.iter().count()), (None, 5));
    }

    #[test]
    fn doubts_and_floods_are_refused() {
        assert!(claims(json!({"a.b": "1", "a": {"b": "2"}})).is_err());
        assert!(claims(json!({"a": {"b": {"c": {"d": {"e": 1}}}}})).is_err());
        let many: Map<String, Value> =
            (0..=MAX_CLAIMS).map(|i| (i.to_string(), json!(1))).collect();
        assert!(Claims::new(&many).is_err());
    }
}
