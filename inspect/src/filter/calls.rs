//! Functions of a filter: checks their arguments, compiles their patterns.
//!
//! - input: a name and the parser behind its `(`
//! - output: an expression
//! - bound: patterns by [`crate::pattern`]
//! - on failure: [`FilterError`]; a function that weir does not have is noted and unknown

use aho_corasick::AhoCorasick;
use regex_automata::meta::Regex;

use super::FilterError;
use super::expr::{Comparison, Expr, Function, Kind};
use super::parse::{Parser, Typed};
use crate::{limits, pattern};

/// Behind `name(`.
pub(super) fn call(parser: &mut Parser<'_>, name: &str) -> Result<Typed, FilterError> {
    if name == "map" {
        let (list, kind) = parser.expression()?;
        parser.want(kind, Kind::List)?;
        parser.expect(",")?;
        let body = parser.closure()?;
        parser.expect(")")?;
        return Ok((Expr::Map(Box::new([list, body])), Kind::List));
    }
    let arguments = parser.list(")")?;
    if let Some(function) = Function::named(name) {
        return plain(parser, function, arguments);
    }
    let mut arguments = arguments.into_iter();
    let (Some((text, kind)), second) = (arguments.next(), arguments.next()) else {
        return unknown(parser, name);
    };
    let (second, second_kind) = second.unwrap_or((Expr::Unknown, Kind::Unknown));
    let typed = match name {
        "matchesAny" => {
            parser.want(second_kind, Kind::List)?;
            let regex = regex(parser, literals(&second))?;
            (Expr::Matches(Box::new(text), Box::new(regex)), Kind::Bool)
        }
        "findMatch" => {
            parser.want(second_kind, Kind::Text)?;
            let regex = regex(parser, &[second])?;
            (Expr::Find(Box::new(text), Box::new(regex)), Kind::Text)
        }
        "containsAny" => {
            parser.want(second_kind, Kind::List)?;
            (Expr::Contains(Box::new(text), Box::new(words(parser, &second)?)), Kind::Bool)
        }
        // `get(attributes, "path", "")`: attributes are never known.
        "get" => return Ok((Expr::Unknown, Kind::Unknown)),
        _ => return unknown(parser, name),
    };
    if arguments.next().is_some() {
        return Err(parser.refuse(&format!("too many arguments of {name}")));
    }
    parser.want(kind, Kind::Text)?;
    Ok(typed)
}

fn unknown(parser: &mut Parser<'_>, name: &str) -> Result<Typed, FilterError> {
    parser.unknown.push(format!("{name}()"));
    Ok((Expr::Unknown, Kind::Unknown))
}

fn plain(
    parser: &Parser<'_>,
    function: Function,
    arguments: Vec<Typed>,
) -> Result<Typed, FilterError> {
    let (kinds, needed, result) = function.signature();
    if arguments.len() < needed || arguments.len() > kinds.len() {
        return Err(parser.refuse("wrong number of arguments"));
    }
    for ((_, kind), wanted) in arguments.iter().zip(kinds) {
        parser.want(*kind, *wanted)?;
    }
    Ok((Expr::Call(function, arguments.into_iter().map(|(expr, _)| expr).collect()), result))
}

fn literals(list: &Expr) -> &[Expr] {
    if let Expr::List(members) = list { members } else { std::slice::from_ref(list) }
}

/// One regular expression of all patterns.
pub(super) fn regex(parser: &mut Parser<'_>, patterns: &[Expr]) -> Result<Regex, FilterError> {
    let mut sources = Vec::new();
    for pattern in patterns {
        let Expr::Text(source) = pattern else {
            return Err(parser.refuse("a pattern is a quoted text"));
        };
        let source = String::from_utf8_lossy(source);
        let pattern = pattern::from_re2(&source, pattern::Groups::None);
        sources.push(pattern.map_err(|error| parser.refuse(&error.to_string()))?);
    }
    match pattern::compile(&sources) {
        Ok(regex) => {
            spend(parser, regex.memory_usage())?;
            Ok(regex)
        }
        Err(error) => {
            parser.compiled_bytes += limits::MAX_COMPILED_BYTES;
            Err(parser.refuse(&error.to_string()))
        }
    }
}

fn spend(parser: &mut Parser<'_>, bytes: usize) -> Result<(), FilterError> {
    parser.compiled_bytes += bytes;
    if parser.compiled_bytes > limits::MAX_FILTER_BYTES {
        return Err(parser.refuse("its patterns compile to too large automata"));
    }
    Ok(())
}

fn words(parser: &mut Parser<'_>, list: &Expr) -> Result<AhoCorasick, FilterError> {
    let mut words = Vec::new();
    for word in literals(list) {
        match word {
            // Nothing is in every text: a slip, which would drop every match.
            Expr::Text(word) if word.is_empty() => {}
            Expr::Text(word) => words.push(word),
            _ => return Err(parser.refuse("a word is a quoted text")),
        }
    }
    let built = AhoCorasick::builder().ascii_case_insensitive(true).build(words);
    let words = built.map_err(|error| parser.refuse(&error.to_string()))?;
    spend(parser, words.memory_usage())?;
    Ok(words)
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "anything",
            Self::Bool => "a condition",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
        }
    }
}

impl Comparison {
    pub(super) fn numbers(self, left: f64, right: f64) -> Option<bool> {
        Some(match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            _ => return None,
        })
    }
}
