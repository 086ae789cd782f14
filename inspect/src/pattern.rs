//! Regular expressions from rule files, made fit for matching bytes here.
//!
//! - input: a pattern in the syntax of RE2 and Go
//! - output: the same in the syntax of the `regex` crate over bytes; compiled patterns
//! - bound: `limits::MAX_PATTERN_BYTES` long, `limits::MAX_PATTERN_NESTING` deep,
//!   `limits::MAX_COMPILED_BYTES` when compiled; matching takes linear time
//! - on failure: [`PatternError`]

mod re2;

use std::error::Error;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{self, Ast, ClassSet, ClassSetItem, GroupKind};
use regex_syntax::hir::{Hir, HirKind};

use crate::limits;

/// Why a pattern is refused.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Longer than patterns may be.
    #[error("pattern of {0} bytes is too long")]
    Long(usize),
    /// Not a regular expression.
    #[error("pattern: {0}")]
    Syntax(String),
    /// Its automaton would be too large.
    #[error("pattern compiles to too large an automaton")]
    Large,
    /// The group that holds the secret does not exist.
    #[error("pattern has {has} groups, and the secret is said to be in group {wanted}")]
    Group {
        /// Its groups.
        has: usize,
        /// The one that was asked for.
        wanted: usize,
    },
}

/// Which capture groups stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// None: nobody asks where they are.
    None,
    /// All of them: the secret is the first that is not empty.
    All,
    /// One, counted from 1.
    Only(usize),
}

/// Translates a pattern. `\w`, `\d`, `\s` and `\b` are ASCII in both; what names other characters
/// becomes a group in which Unicode is on.
///
/// # Errors
/// [`PatternError`], but for [`PatternError::Large`].
pub fn from_re2(source: &str, groups: Groups) -> Result<String, PatternError> {
    if source.len() > limits::MAX_PATTERN_BYTES {
        return Err(PatternError::Long(source.len()));
    }
    let translated =
        re2::translate(source).map_err(|reason| PatternError::Syntax(reason.into()))?;
    let mut parser = ParserBuilder::new().nest_limit(limits::MAX_PATTERN_NESTING).build();
    let mut ast = parser.parse(&translated).map_err(|error| {
        // Its Display draws the whole pattern over several lines.
        let at = error.span().start.offset;
        PatternError::Syntax(format!("{} at byte {at}", error.kind()))
    })?;
    let mut seen = 0;
    rewrite(&mut ast, groups, &mut seen);
    if let Groups::Only(wanted) = groups
        && (wanted == 0 || wanted > seen)
    {
        return Err(PatternError::Group { has: seen, wanted });
    }
    let mut printed = String::new();
    let print = ast::print::Printer::new().print(&ast, &mut printed);
    print.map_err(|_no_memory| PatternError::Large)?;
    Ok(printed)
}

/// Compiles patterns into one regular expression that matches where any of them does.
///
/// # Errors
/// [`PatternError::Syntax`] and [`PatternError::Large`].
pub fn compile(patterns: &[String]) -> Result<Regex, PatternError> {
    let config = Regex::config().nfa_size_limit(Some(limits::MAX_COMPILED_BYTES));
    let built = Regex::builder().configure(config).syntax(syntax()).build_many(patterns);
    built.map_err(|error| match error.size_limit() {
        Some(_) => PatternError::Large,
        None => {
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            PatternError::Syntax(reason.lines().last().unwrap_or_default().to_owned())
        }
    })
}

/// How patterns are read everywhere in this package: as bytes.
pub fn syntax() -> syntax::Config {
    syntax::Config::new().unicode(false).utf8(false)
}

/// Whether something stands before the secret: more than one byte that is not part of it.
pub fn has_context(pattern: &str) -> bool {
    let hir = syntax::parse_with(pattern, &syntax());
    hir.is_ok_and(|hir| lead(&hir).is_some_and(|longest| longest.is_none_or(|bytes| bytes > 1)))
}

/// The most bytes before the first group, if there is one; endless is `Some(None)`.
fn lead(hir: &Hir) -> Option<Option<usize>> {
    match hir.kind() {
        HirKind::Capture(_) => Some(Some(0)),
        HirKind::Repetition(repetition) => lead(&repetition.sub),
        HirKind::Concat(parts) => {
            let mut before = Some(0_usize);
            for part in parts {
                if let Some(inside) = lead(part) {
                    return Some(before.zip(inside).map(|(a, b)| a.saturating_add(b)));
                }
                let length = part.properties().maximum_len();
                before = before.zip(length).map(|(a, b)| a.saturating_add(b));
            }
            None
        }
        HirKind::Alternation(branches) => {
            let leads = branches.iter().filter_map(lead);
            leads.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)))
        }
        _ => None,
    }
}

/// Groups that do not stay become plain ones; what is not ASCII gets Unicode.
fn rewrite(ast: &mut Ast, groups: Groups, seen: &mut usize) {
    let foreign = match &*ast {
        Ast::Literal(literal) => !literal.c.is_ascii(),
        Ast::ClassUnicode(_) => true,
        Ast::ClassBracketed(class) => is_foreign(&class.kind),
        _ => false,
    };
    if foreign {
        let span = *ast.span();
        let item = ast::FlagsItem { span, kind: ast::FlagsItemKind::Flag(ast::Flag::Unicode) };
        let kind = GroupKind::NonCapturing(ast::Flags { span, items: vec![item] });
        let inner = std::mem::replace(ast, Ast::empty(span));
        *ast = Ast::group(ast::Group { span, kind, ast: Box::new(inner) });
        return;
    }
    match ast {
        Ast::Group(group) => {
            if group.is_capturing() {
                *seen += 1;
                let stays = match groups {
                    Groups::None => false,
                    Groups::All => true,
                    Groups::Only(wanted) => wanted == *seen,
                };
                let plain = ast::Flags { span: group.span, items: Vec::new() };
                group.kind = match u32::try_from(*seen) {
                    Ok(index) if stays => GroupKind::CaptureIndex(index),
                    _ => GroupKind::NonCapturing(plain),
                };
            }
            rewrite(&mut group.ast, groups, seen);
        }
        Ast::Repetition(repetition) => rewrite(&mut repetition.ast, groups, seen),
        Ast::Alternation(alternation) => {
            alternation.asts.iter_mut().for_each(|ast| rewrite(ast, groups, seen));
        }
        Ast::Concat(concat) => concat.asts.iter_mut().for_each(|ast| rewrite(ast, groups, seen)),
        _ => {}
    }
}

fn is_foreign(set: &ClassSet) -> bool {
    match set {
        ClassSet::Item(item) => is_foreign_item(item),
        ClassSet::BinaryOp(operation) => is_foreign(&operation.lhs) || is_foreign(&operation.rhs),
    }
}

fn is_foreign_item(item: &ClassSetItem) -> bool {
    match item {
        ClassSetItem::Literal(literal) => !literal.c.is_ascii(),
        ClassSetItem::Range(range) => !range.start.c.is_ascii() || !range.end.c.is_ascii(),
        ClassSetItem::Unicode(_) => true,
        ClassSetItem::Bracketed(class) => is_foreign(&class.kind),
        ClassSetItem::Union(union) => union.items.iter().any(is_foreign_item),
        ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => false,
    }
}

#[cfg(test)]
mod tests;
