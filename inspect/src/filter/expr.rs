//! What a filter is after parsing.
//!
//! - input: nothing; built by the parser
//! - output: [`Expr`]
//! - bound: `MAX_DEPTH` deep
//! - on failure: cannot fail

use aho_corasick::AhoCorasick;
use regex_automata::meta::Regex;

/// An expression. Branches with many members are flat, so that its depth is that of its brackets.
#[derive(Debug)]
pub(super) enum Expr {
    /// What weir does not know: paths, and functions that it does not have.
    Unknown,
    Bool(bool),
    Number(f64),
    Text(Vec<u8>),
    List(Vec<Expr>),
    Field(Field),
    /// A value that `let` named.
    Local(usize),
    /// `#`: the member that `map` is at.
    Item,
    Not(Box<Expr>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    If(Box<[Expr; 3]>),
    Compare(Comparison, Box<[Expr; 2]>),
    /// Sum of numbers, or texts joined.
    Add(Vec<Expr>),
    Subtract(Box<[Expr; 2]>),
    /// Text or list, first, end.
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
    Index(Box<[Expr; 2]>),
    /// Whether a text matches.
    Matches(Box<Expr>, Box<Regex>),
    /// The first match, or nothing.
    Find(Box<Expr>, Box<Regex>),
    /// Whether one of some words is in a text.
    Contains(Box<Expr>, Box<AhoCorasick>),
    Call(Function, Vec<Expr>),
    /// List, and what each of its members becomes.
    Map(Box<[Expr; 2]>),
    /// Values by name, then the result.
    Block(Vec<(usize, Expr)>, Box<Expr>),
}

/// What a candidate says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Secret,
    Matched,
    Line,
    Raw,
    MatchStart,
    MatchEnd,
    LineStart,
    LineEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Entropy,
    TokenRatio,
    FailsTokenEfficiency,
    StartsWithAny,
    EndsWithAny,
    Len,
    Lower,
    Upper,
    Trim,
    Max,
    Min,
    Replace,
    Split,
    Join,
    SetConfidence,
}

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of [`Expr::Unknown`], and of members of lists: decided when it is evaluated.
    Unknown,
    Bool,
    Number,
    Text,
    List,
}

impl Kind {
    pub(super) fn fits(self, wanted: Self) -> bool {
        self == wanted || self == Self::Unknown || wanted == Self::Unknown
    }
}

impl Function {
    /// By the name that rule files use.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "entropy" => Self::Entropy,
            "tokenRatio" => Self::TokenRatio,
            "failsTokenEfficiency" => Self::FailsTokenEfficiency,
            "startsWithAny" => Self::StartsWithAny,
            "endsWithAny" => Self::EndsWithAny,
            "len" => Self::Len,
            "lower" => Self::Lower,
            "upper" => Self::Upper,
            "trim" => Self::Trim,
            "max" => Self::Max,
            "min" => Self::Min,
            "replace" => Self::Replace,
            "split" => Self::Split,
            "join" => Self::Join,
            "setConfidence" => Self::SetConfidence,
            _ => return None,
        })
    }

    /// Types of its arguments, how many of them it needs, and what it gives.
    pub(super) fn signature(self) -> (&'static [Kind], usize, Kind) {
        use Kind::{Bool, List, Number, Text, Unknown};
        match self {
            Self::Entropy | Self::TokenRatio => (&[Text], 1, Number),
            Self::FailsTokenEfficiency => (&[Text], 1, Bool),
            Self::StartsWithAny | Self::EndsWithAny => (&[Text, List], 2, Bool),
            Self::Len => (&[Unknown], 1, Number),
            Self::Lower | Self::Upper | Self::Trim | Self::SetConfidence => (&[Text], 1, Text),
            Self::Max | Self::Min => (&[Number, Number], 2, Number),
            Self::Replace => (&[Text, Text, Text, Number], 3, Text),
            Self::Split => (&[Text, Text], 2, List),
            Self::Join => (&[List, Text], 1, Text),
        }
    }
}
