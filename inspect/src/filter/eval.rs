//! Evaluates a filter on a candidate.
//!
//! - input: [`Expr`], what is seen of a candidate
//! - output: a [`Value`]
//! - bound: `MAX_WORK` bytes looked at or copied
//! - on failure: [`Value::Unknown`], of which `and`, `or` and `not` know what it leaves open

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::AhoCorasick;
use regex_automata::meta::Regex;

use super::expr::{Comparison, Expr, Field, Function};
use super::{Candidate, MAX_WORK, entropy, words};
use crate::limits;

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'v> {
    /// Nobody can tell.
    Unknown,
    Bool(bool),
    Number(f64),
    Text(Cow<'v, [u8]>),
    List(Vec<Value<'v>>),
}

use Value::Unknown;

/// One evaluation.
pub(super) struct Machine<'v> {
    text: &'v [u8],
    matched: Range<usize>,
    secret: Range<usize>,
    locals: Vec<Value<'v>>,
    item: Value<'v>,
    work: usize,
}

impl<'v> Machine<'v> {
    /// Sees of a candidate what does not depend on how a text is cut.
    pub(super) fn new(candidate: &Candidate<'v>, slots: usize) -> Self {
        let matched = candidate.matched.clone();
        let start = matched.start.saturating_sub(limits::LOOK_BEHIND_BYTES);
        let held = candidate.secret.start.saturating_add(limits::MAX_HELD_BYTES);
        let end = matched.end.min(held).min(candidate.text.len());
        let inside = |at: usize| at.clamp(start, end.max(start)) - start;
        Self {
            text: candidate.text.get(start..end).unwrap_or_default(),
            matched: inside(matched.start)..inside(matched.end),
            secret: inside(candidate.secret.start)..inside(candidate.secret.end),
            locals: vec![Unknown; slots],
            item: Unknown,
            work: MAX_WORK,
        }
    }

    pub(super) fn eval(&mut self, expr: &'v Expr) -> Value<'v> {
        if !self.spend(1) {
            return Unknown;
        }
        match expr {
            Expr::Unknown => Unknown,
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Number(value) => Value::Number(*value),
            Expr::Text(value) => Value::Text(Cow::Borrowed(value)),
            Expr::List(members) => Value::List(members.iter().map(|m| self.eval(m)).collect()),
            Expr::Field(field) => self.field(*field),
            Expr::Local(slot) => self.copy(self.locals.get(*slot).cloned()),
            Expr::Item => self.copy(Some(self.item.clone())),
            Expr::Not(inner) => match self.eval(inner) {
                Value::Bool(value) => Value::Bool(!value),
                _ => Unknown,
            },
            Expr::All(members) => self.chain(members, false),
            Expr::Any(members) => self.chain(members, true),
            Expr::If(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition) {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Unknown,
                }
            }
            Expr::Compare(operator, sides) => {
                let [left, right] = &**sides;
                let (left, right) = (self.eval(left), self.eval(right));
                self.compare(*operator, &left, &right).map_or(Unknown, Value::Bool)
            }
            Expr::Add(members) => self.add(members),
            Expr::Subtract(sides) => {
                let [left, right] = &**sides;
                match (self.eval(left), self.eval(right)) {
                    (Value::Number(left), Value::Number(right)) => Value::Number(left - right),
                    _ => Unknown,
                }
            }
            Expr::Slice(whole, from, to) => {
                let whole = self.eval(whole);
                let from = from.as_ref().map(|from| self.eval(from));
                let to = to.as_ref().map(|to| self.eval(to));
                if self.spend(size(&whole)) { slice(whole, from, to) } else { Unknown }
            }
            Expr::Index(sides) => {
                let [whole, index] = &**sides;
                let (whole, index) = (self.eval(whole), self.eval(index));
                member(whole, &index)
            }
            Expr::Matches(text, regex) => {
                self.on_text(text, |text| Value::Bool(regex.is_match(&text)))
            }
            Expr::Find(text, regex) => self.on_text(text, |text| find(regex, text)),
            Expr::Contains(text, words) => {
                self.on_text(text, |text| Value::Bool(words.is_match(&text)))
            }
            Expr::Call(function, arguments) => {
                let arguments: Vec<_> = arguments.iter().map(|a| self.eval(a)).collect();
                self.call(*function, arguments).unwrap_or(Unknown)
            }
            Expr::Map(parts) => {
                let [list, body] = &**parts;
                let Value::List(members) = self.eval(list) else { return Unknown };
                let outer = std::mem::replace(&mut self.item, Unknown);
                let mapped = members.into_iter().map(|member| {
                    self.item = member;
                    self.eval(body)
                });
                let mapped = mapped.collect();
                self.item = outer;
                Value::List(mapped)
            }
            Expr::Block(named, result) => {
                for (slot, value) in named {
                    let value = self.eval(value);
                    if let Some(local) = self.locals.get_mut(*slot) {
                        *local = value;
                    }
                }
                self.eval(result)
            }
        }
    }

    /// Takes from the work that is left.
    fn spend(&mut self, amount: usize) -> bool {
        let left = self.work.checked_sub(amount);
        self.work = left.unwrap_or(0);
        left.is_some()
    }

    fn field(&self, field: Field) -> Value<'v> {
        let line = || {
            let before = self.text.get(..self.matched.start).unwrap_or_default();
            before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        let text = |range: Range<usize>| {
            Value::Text(Cow::Borrowed(self.text.get(range).unwrap_or_default()))
        };
        match field {
            Field::Secret => text(self.secret.clone()),
            Field::Matched => text(self.matched.clone()),
            Field::Line => text(line()..self.matched.end),
            Field::Raw => Value::Text(Cow::Borrowed(self.text)),
            Field::MatchStart => number(self.matched.start),
            Field::MatchEnd | Field::LineEnd => number(self.matched.end),
            Field::LineStart => number(line()),
        }
    }

    /// A value that is used once more: counts what is copied.
    fn copy(&mut self, value: Option<Value<'v>>) -> Value<'v> {
        let value = value.unwrap_or(Unknown);
        if self.spend(size(&value)) { value } else { Unknown }
    }

    /// `and` (until one is false) or `or` (until one is true).
    fn chain(&mut self, members: &'v [Expr], decisive: bool) -> Value<'v> {
        let mut open = false;
        for member in members {
            match self.eval(member) {
                Value::Bool(value) if value == decisive => return Value::Bool(decisive),
                Value::Bool(_) => {}
                _ => open = true,
            }
        }
        if open { Unknown } else { Value::Bool(!decisive) }
    }

    fn compare(
        &mut self,
        operator: Comparison,
        left: &Value<'v>,
        right: &Value<'v>,
    ) -> Option<bool> {
        if !self.spend(size(left) + size(right)) {
            return None;
        }
        match (operator, left, right) {
            (_, Unknown, _) | (_, _, Unknown) => None,
            (Comparison::Equal, left, right) => Some(left == right),
            (Comparison::Unequal, left, right) => Some(left != right),
            (Comparison::In, left, Value::List(members)) => {
                let found = members.contains(left);
                (found || !members.contains(&Unknown)).then_some(found)
            }
            (_, Value::Number(left), Value::Number(right)) => operator.numbers(*left, *right),
            (_, Value::Text(left), Value::Text(right)) => match operator {
                Comparison::Contains => Some(contains(left, right)),
                Comparison::StartsWith => Some(left.starts_with(right)),
                Comparison::EndsWith => Some(left.ends_with(right)),
                _ => None,
            },
            _ => None,
        }
    }

    fn add(&mut self, members: &'v [Expr]) -> Value<'v> {
        let mut values = members.iter().map(|member| self.eval(member)).collect::<Vec<_>>();
        let numbers = values.iter().map(|value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        });
        if let Some(sum) = numbers.sum::<Option<f64>>() {
            return Value::Number(sum);
        }
        let mut joined = Vec::new();
        for value in values.drain(..) {
            match value {
                Value::Text(text) if self.spend(text.len()) => joined.extend_from_slice(&text),
                _ => return Unknown,
            }
        }
        Value::Text(Cow::Owned(joined))
    }

    fn on_text(
        &mut self,
        text: &'v Expr,
        then: impl FnOnce(Cow<'v, [u8]>) -> Value<'v>,
    ) -> Value<'v> {
        match self.eval(text) {
            Value::Text(text) if self.spend(text.len()) => then(text),
            _ => Unknown,
        }
    }

    fn call(&mut self, function: Function, arguments: Vec<Value<'v>>) -> Option<Value<'v>> {
        let work = arguments.iter().map(size).sum::<usize>();
        if !self.spend(work) {
            return None;
        }
        let mut arguments = arguments.into_iter();
        let first = arguments.next()?;
        let second = arguments.next();
        Some(match (function, first, second) {
            (Function::Entropy, Value::Text(text), _) => Value::Number(entropy(&text)),
            (Function::TokenRatio, Value::Text(text), _) => {
                Value::Number(words::token_ratio(&text))
            }
            (Function::FailsTokenEfficiency, Value::Text(text), _) => {
                Value::Bool(words::fails_token_efficiency(&text))
            }
            (Function::StartsWithAny, Value::Text(text), Some(Value::List(words))) => {
                any_word(&words, |word| text.starts_with(word))
            }
            (Function::EndsWithAny, Value::Text(text), Some(Value::List(words))) => {
                any_word(&words, |word| text.ends_with(word))
            }
            (Function::Len, Value::Text(text), _) => number(text.len()),
            (Function::Len, Value::List(members), _) => number(members.len()),
            (Function::Lower, Value::Text(text), _) => owned(text.to_ascii_lowercase()),
            (Function::Upper, Value::Text(text), _) => owned(text.to_ascii_uppercase()),
            (Function::Trim, Value::Text(text), _) => owned(text.trim_ascii().to_vec()),
            (Function::Max, Value::Number(a), Some(Value::Number(b))) => Value::Number(a.max(b)),
            (Function::Min, Value::Number(a), Some(Value::Number(b))) => Value::Number(a.min(b)),
            (Function::Replace, Value::Text(text), Some(Value::Text(old))) => {
                let Some(Value::Text(new)) = arguments.next() else { return None };
                let times = place(arguments.next(), text.len(), text.len())?;
                self.replace(&text, &places(&text, &old, times), &new)?
            }
            (Function::Split, Value::Text(text), Some(Value::Text(by))) => split(&text, &by),
            (Function::Join, Value::List(members), by) => self.join(members, by)?,
            (Function::SetConfidence, level, _) => level,
            _ => return None,
        })
    }

    fn replace(&mut self, text: &[u8], old: &[Range<usize>], new: &[u8]) -> Option<Value<'v>> {
        if !self.spend(old.len().saturating_mul(new.len())) {
            return None;
        }
        let mut replaced = Vec::new();
        let mut from = 0;
        for place in old {
            replaced.extend_from_slice(text.get(from..place.start)?);
            replaced.extend_from_slice(new);
            from = place.end;
        }
        replaced.extend_from_slice(text.get(from..)?);
        Some(owned(replaced))
    }

    fn join(&mut self, members: Vec<Value<'v>>, by: Option<Value<'v>>) -> Option<Value<'v>> {
        let by = match by {
            Some(Value::Text(by)) => by,
            Some(_) => return None,
            None => Cow::Borrowed(&[][..]),
        };
        let mut joined = Vec::new();
        for (number, member) in members.into_iter().enumerate() {
            let Value::Text(member) = member else { return None };
            if !self.spend(by.len()) {
                return None;
            }
            joined.extend_from_slice(if number == 0 { &[] } else { &by });
            joined.extend_from_slice(&member);
        }
        Some(owned(joined))
    }
}

/// Bytes of a value, for the work of passing it on.
fn size(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(members) => members.iter().map(|member| 1 + size(member)).sum(),
        _ => 0,
    }
}

/// Lengths here are far below 2^32, so that every number is exact.
fn number<'v>(length: usize) -> Value<'v> {
    u32::try_from(length).map_or(Unknown, |length| Value::Number(f64::from(length)))
}

fn owned<'v>(text: Vec<u8>) -> Value<'v> {
    Value::Text(Cow::Owned(text))
}

fn find<'v>(regex: &Regex, text: Cow<'v, [u8]>) -> Value<'v> {
    let found = regex.find(&text).map_or(0..0, |found| found.range());
    Value::Text(cut(text, found))
}

fn cut(text: Cow<'_, [u8]>, range: Range<usize>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(range).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(range).unwrap_or_default().to_vec()),
    }
}

fn any_word<'v>(words: &[Value<'v>], found: impl Fn(&[u8]) -> bool) -> Value<'v> {
    let mut open = false;
    for word in words {
        match word {
            Value::Text(word) if found(word) => return Value::Bool(true),
            Value::Text(_) => {}
            _ => open = true,
        }
    }
    if open { Unknown } else { Value::Bool(false) }
}

/// Where a word stands, at most so many times; nowhere when it is empty.
fn places(text: &[u8], word: &[u8], times: usize) -> Vec<Range<usize>> {
    if word.is_empty() {
        return Vec::new();
    }
    let Ok(searcher) = AhoCorasick::new([word]) else { return Vec::new() };
    searcher.find_iter(text).take(times).map(|found| found.range()).collect()
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    word.is_empty() || !places(text, word, 1).is_empty()
}

fn split<'v>(text: &[u8], by: &[u8]) -> Value<'v> {
    let mut members = Vec::new();
    let mut from = 0;
    for place in places(text, by, usize::MAX) {
        members.push(owned(text.get(from..place.start).unwrap_or_default().to_vec()));
        from = place.end;
    }
    members.push(owned(text.get(from..).unwrap_or_default().to_vec()));
    Value::List(members)
}

/// A place in something of a length: from its end when negative, inside in any case.
fn place(value: Option<Value<'_>>, length: usize, missing: usize) -> Option<usize> {
    let wanted = match value {
        None => return Some(missing),
        Some(Value::Number(wanted)) => wanted,
        Some(_) => return None,
    };
    let from_end = wanted < 0.0;
    // Saturates: no text is longer than that.
    let distance = (0..=length)
        .rev()
        .find(|at| u32::try_from(*at).is_ok_and(|at| f64::from(at) <= wanted.abs()))?;
    Some(if from_end { length - distance } else { distance })
}

fn slice<'v>(whole: Value<'v>, from: Option<Value<'v>>, to: Option<Value<'v>>) -> Value<'v> {
    let length = match &whole {
        Value::Text(text) => text.len(),
        Value::List(members) => members.len(),
        _ => return Unknown,
    };
    let (Some(from), Some(to)) = (place(from, length, 0), place(to, length, length)) else {
        return Unknown;
    };
    match whole {
        Value::Text(text) => Value::Text(cut(text, from..to)),
        Value::List(members) => {
            Value::List(members.get(from..to).map(<[_]>::to_vec).unwrap_or_default())
        }
        _ => Unknown,
    }
}

fn member<'v>(whole: Value<'v>, index: &Value<'v>) -> Value<'v> {
    let Value::Number(index) = index else { return Unknown };
    let length = match &whole {
        Value::Text(text) => text.len(),
        Value::List(members) => members.len(),
        _ => return Unknown,
    };
    let Some(at) = place(Some(Value::Number(*index)), length, 0).filter(|at| *at < length) else {
        return Unknown;
    };
    match whole {
        Value::Text(text) => Value::Text(cut(text, at..at + 1)),
        Value::List(members) => members.into_iter().nth(at).unwrap_or(Unknown),
        _ => Unknown,
    }
}
