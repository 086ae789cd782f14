//! Understands one request of ClickHouse's HTTP interface, and refuses what is not served.
//!
//! - input: the query string, the headers that matter, the body of a statement
//! - output: [`Request`]
//! - bound: [`MAX_PAIRS`] parameters; the body is bounded by the caller
//! - on failure: [`EngineError`] with the code that a ClickHouse server would use, so that nobody
//!   builds on something that would silently not happen

use std::borrow::Cow;

use super::ffi::EngineError;

/// Parameters of one request.
const MAX_PAIRS: usize = 128;
const DEFAULT_FORMAT: &str = "TabSeparated";

/// Settings of an insert that the engine gets with the statement.
const INSERT_SETTINGS: [&str; 5] = [
    "insert_deduplication_token",
    "deduplicate_blocks_in_dependent_materialized_views",
    "insert_deduplicate",
    "async_insert",
    "input_format_skip_unknown_fields",
];

/// A request's parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// Current database.
    pub(super) database: String,
    /// Format of the answer when the statement names none.
    pub(super) format: String,
    /// Statement in the query string.
    pub(super) query: String,
    /// Server-side parameters.
    pub(super) params: Vec<(String, String)>,
    /// Settings for an insert.
    pub(super) settings: Vec<(String, String)>,
}

/// An insert whose data is in the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InsertHead {
    /// The statement without its `FORMAT` clause, with its settings.
    pub(super) sql: String,
    /// Format of the data.
    pub(super) format: String,
}

impl Request {
    /// Parses a query string.
    pub(super) fn parse(query_string: &str) -> Result<Self, EngineError> {
        let mut request = Self {
            database: "default".to_owned(),
            format: DEFAULT_FORMAT.to_owned(),
            ..Self::default()
        };
        for (i, pair) in query_string.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if i >= MAX_PAIRS {
                return Err(EngineError::new(36, "BAD_ARGUMENTS", "too many URL parameters"));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            request.set(&decode(name)?, &decode(value)?)?;
        }
        Ok(request)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), EngineError> {
        match name {
            "query" => value.clone_into(&mut self.query),
            "default_format" => {
                word(name, value)?;
                value.clone_into(&mut self.format);
            }
            "database" => {
                word(name, value)?;
                value.clone_into(&mut self.database);
            }
            // Labels, and switches that are off or ask for what is done anyway.
            "query_id" | "describe_include_subcolumns" | "readonly" | "log_comment" => {}
            "decompress"
            | "compress"
            | "wait_end_of_query"
            | "enable_http_compression"
            | "async_insert"
            | "buffer_size"
                if value == "0" => {}
            "decompress" => {
                let what = "compressed requests are not served by the embedded store: use \
                            compression none";
                return Err(EngineError::new(48, "NOT_IMPLEMENTED", what));
            }
            "role" | "session_id" | "session_timeout" | "session_check" | "quota_key"
            | "compress" | "wait_end_of_query" | "buffer_size" | "user" | "password" => {
                let what = format!("{name} is not served by the embedded store");
                return Err(EngineError::new(48, "NOT_IMPLEMENTED", what));
            }
            _ if INSERT_SETTINGS.contains(&name) => {
                self.settings.push((name.to_owned(), value.to_owned()));
            }
            _ => match name.strip_prefix("param_") {
                Some(param) => self.params.push((param.to_owned(), value.to_owned())),
                None => {
                    let shown: String = name.chars().take(64).collect();
                    let what = format!("setting {shown:?} is not served by the embedded store");
                    return Err(EngineError::new(115, "UNKNOWN_SETTING", what));
                }
            },
        }
        Ok(())
    }

    /// Adds the fields of a `multipart/form-data` body: `query` and `param_*`.
    pub(super) fn add_multipart(&mut self, boundary: &str, body: &str) -> Result<(), EngineError> {
        let bad = |what: &str| EngineError::new(36, "BAD_ARGUMENTS", what);
        let delimiter = format!("--{boundary}");
        let mut parts = body.split(delimiter.as_str());
        if parts.next() != Some("") {
            return Err(bad("the multipart body does not begin with its boundary"));
        }
        for part in parts {
            if part.starts_with("--") {
                return Ok(());
            }
            let (head, value) =
                part.split_once("\r\n\r\n").ok_or_else(|| bad("a multipart field has no value"))?;
            let value =
                value.strip_suffix("\r\n").ok_or_else(|| bad("a multipart field has no end"))?;
            let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next());
            let name = name.ok_or_else(|| bad("a multipart field has no name"))?;
            if name == "query" {
                self.query.push_str(value);
            } else if name.starts_with("param_") && self.params.len() < MAX_PAIRS {
                self.set(name, value)?;
            } else {
                let what = "external data is not served by the embedded store";
                return Err(EngineError::new(48, "NOT_IMPLEMENTED", what));
            }
        }
        Err(bad("the multipart body has no end"))
    }

    /// The insert that the query string asks for, when it is one with data in the body.
    pub(super) fn insert(&self) -> Option<InsertHead> {
        let head = self.query.trim_start();
        let is_insert = head.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("INSERT"));
        if !is_insert {
            return None;
        }
        let (sql, format) = match last_format(head) {
            Some((sql, format)) => (sql.trim_end(), format),
            None => (head, DEFAULT_FORMAT),
        };
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} = {}", quote(value)))
            .collect();
        let sql = if settings.is_empty() {
            sql.to_owned()
        } else {
            format!("{sql} SETTINGS {}", settings.join(", "))
        };
        Some(InsertHead { sql, format: format.to_owned() })
    }
}

/// The boundary of a `multipart/form-data` content type.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let rest = content_type.strip_prefix("multipart/form-data")?;
    let value = rest.split("boundary=").nth(1)?.split(';').next()?.trim().trim_matches('"');
    (!value.is_empty() && value.len() <= 70).then_some(value)
}

/// Whether the word `FORMAT`, followed by another word, appears anywhere.
pub(super) fn mentions_format(sql: &str) -> bool {
    formats(sql).next().is_some()
}

/// The text before the last `FORMAT name` when it ends the statement, and the name.
fn last_format(sql: &str) -> Option<(&str, &str)> {
    let at = formats(sql).last()?;
    let before = sql.get(..at)?;
    let name = sql.get(at + 6..)?.trim().trim_end_matches(';').trim_end();
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some((before, name))
}

fn formats(sql: &str) -> impl Iterator<Item = usize> {
    let bytes = sql.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    bytes.windows(6).enumerate().filter_map(move |(at, window)| {
        let before = at.checked_sub(1).and_then(|i| bytes.get(i));
        let after = bytes.get(at + 6);
        (window.eq_ignore_ascii_case(b"FORMAT")
            && before.is_none_or(|b| !word(b))
            // `/**/` separates words as well.
            && after.is_some_and(|b| b.is_ascii_whitespace() || *b == b'/' || *b == b'-'))
        .then_some(at)
    })
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn word(name: &str, value: &str) -> Result<(), EngineError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if value.is_empty() || value.len() > 64 || !value.chars().all(plain) {
        let what = format!("{name} must consist of letters, digits and _");
        return Err(EngineError::new(36, "BAD_ARGUMENTS", what));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, EngineError> {
    let text: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_encoding::percent_decode_str(&text)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_invalid| EngineError::new(36, "BAD_ARGUMENTS", "a URL parameter is not UTF-8"))
}

#[cfg(test)]
mod tests;
