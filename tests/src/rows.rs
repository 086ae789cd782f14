//! Decodes `RowBinaryWithNamesAndTypes`, as it lies in the spool, by the types in its header.
//!
//! - input: a complete body: header and rows
//! - output: one [`Row`] per row
//! - bound: the input
//! - on failure: panics, since the gateway wrote something that ClickHouse would refuse

use std::net::Ipv6Addr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A decoded row. Maps become arrays of pairs, since field names may repeat; text that is not
/// UTF-8 becomes `{"hex": …}`.
#[derive(Clone, Debug)]
pub struct Row(pub Map<String, Value>);

impl Row {
    /// A column that must be there.
    pub fn value(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column}"))
    }

    /// A text column.
    pub fn text(&self, column: &str) -> &str {
        self.value(column).as_str().unwrap_or_else(|| panic!("{column} is no text"))
    }

    /// A number column.
    pub fn number(&self, column: &str) -> u64 {
        self.value(column).as_u64().unwrap_or_else(|| panic!("{column} is no number"))
    }

    /// An array of numbers.
    pub fn numbers(&self, column: &str) -> Vec<u64> {
        let items = self.value(column).as_array().unwrap_or_else(|| panic!("{column}: no array"));
        items.iter().map(|item| item.as_u64().expect("a number")).collect()
    }

    /// The length of an array column.
    pub fn length(&self, column: &str) -> usize {
        self.value(column).as_array().unwrap_or_else(|| panic!("{column}: no array")).len()
    }

    /// The bytes of a text column.
    pub fn bytes(&self, column: &str) -> Vec<u8> {
        match self.value(column) {
            Value::String(text) => text.clone().into_bytes(),
            other => hex::decode(other["hex"].as_str().expect("hex")).expect("hex"),
        }
    }

    /// Values of a header field in a map column.
    pub fn field(&self, column: &str, name: &str) -> Vec<&str> {
        let pairs = self.value(column).as_array().expect("a map");
        let named = pairs.iter().filter(|pair| pair[0] == name);
        named.map(|pair| pair[1].as_str().expect("text")).collect()
    }
}

/// Decodes every row.
pub fn decode(data: &[u8]) -> Vec<Row> {
    let mut input = Input { data, at: 0 };
    let columns = input.length();
    let names: Vec<String> = (0..columns).map(|_| input.plain_text()).collect();
    let kinds: Vec<String> = (0..columns).map(|_| input.plain_text()).collect();
    let mut rows = Vec::new();
    while input.at < data.len() {
        let values = kinds.iter().map(|kind| input.value(kind));
        rows.push(Row(names.iter().cloned().zip(values).collect()));
    }
    rows
}

struct Input<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.data[self.at..self.at + length];
        self.at += length;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("so many bytes")
    }

    /// LEB128.
    fn length(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn plain_text(&mut self) -> String {
        let length = self.length();
        String::from_utf8(self.take(length).to_vec()).expect("UTF-8")
    }

    fn value(&mut self, kind: &str) -> Value {
        let (name, inner) = match kind.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')').expect("a closed type")),
            None => (kind, ""),
        };
        match name {
            "UInt8" => self.take(1)[0].into(),
            "UInt16" => u16::from_le_bytes(self.array()).into(),
            "UInt32" | "DateTime" => u32::from_le_bytes(self.array()).into(),
            "UInt64" => u64::from_le_bytes(self.array()).into(),
            "Int64" | "DateTime64" => i64::from_le_bytes(self.array()).into(),
            "UUID" => {
                let (high, low) =
                    (u64::from_le_bytes(self.array()), u64::from_le_bytes(self.array()));
                Uuid::from_u64_pair(high, low).to_string().into()
            }
            "IPv6" => Ipv6Addr::from(self.array::<16>()).to_string().into(),
            "LowCardinality" => self.value(inner),
            "String" => {
                let length = self.length();
                let raw = self.take(length);
                match std::str::from_utf8(raw) {
                    Ok(text) => text.into(),
                    Err(_) => json!({ "hex": hex::encode(raw) }),
                }
            }
            "FixedString" => {
                let length = inner.parse().expect("a length");
                hex::encode(self.take(length)).into()
            }
            "Enum8" => {
                let number = i8::from_le_bytes(self.array());
                let names = inner.split(", ").filter_map(|item| item.split_once(" = "));
                let mut found = names.filter(|(_, n)| n.parse() == Ok(number));
                let (name, _) = found.next().unwrap_or_else(|| panic!("{number} is not in {kind}"));
                name.trim_matches('\'').into()
            }
            "Array" => {
                let length = self.length();
                (0..length).map(|_| self.value(inner)).collect()
            }
            "Map" => {
                let (key, value) = inner.split_once(", ").expect("two types");
                let length = self.length();
                (0..length).map(|_| json!([self.value(key), self.value(value)])).collect()
            }
            _ => panic!("unknown type {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_gateway::record::row::Table;

    #[test]
    fn every_table_of_the_gateway_has_known_types() {
        for table in Table::ALL {
            let mut data = table.header();
            // texts, arrays and maps of length 1; every Enum8 has a 1
            let before = data.len();
            data.extend_from_slice(&[1; 4096]);
            let mut input = Input { data: &data, at: before };
            for (_, kind) in table.columns() {
                input.value(kind);
            }
        }
    }
}
