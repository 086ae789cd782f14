//! Makes an expression of a filter's text.
//!
//! - input: text of a filter
//! - output: [`Expr`], every type checked
//! - bound: `MAX_TEXT_BYTES` long, `MAX_DEPTH` deep, `MAX_LOCALS` names
//! - on failure: [`FilterError`] with its place

use super::expr::{Comparison, Expr, Field, Kind};
use super::lex::{Token, tokens};
use super::{FilterError, MAX_DEPTH, MAX_LOCALS, MAX_TEXT_BYTES, Program, calls, error};

/// What the parser gives: an expression and its type.
pub(super) type Typed = (Expr, Kind);

/// The expression, and the names of what is not known in it.
pub(super) fn parse(text: &str) -> Result<(Program, Vec<String>), FilterError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(error(text, 0, "longer than filters may be"));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, ..Parser::default() };
    let (expr, kind) = parser.block()?;
    if parser.next < parser.tokens.len() {
        return Err(parser.refuse("expected an operator or the end"));
    }
    if !kind.fits(Kind::Bool) {
        return Err(error(text, 0, "its result is not a condition"));
    }
    let program = Program { expr, slots: parser.slots, compiled_bytes: parser.compiled_bytes };
    Ok((program, parser.unknown))
}

#[derive(Default)]
pub(super) struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
    /// Names in scope, with their slots.
    scope: Vec<(String, usize, Kind)>,
    slots: usize,
    /// Nested closures, in which `#` stands for something.
    closures: usize,
    pub(super) unknown: Vec<String>,
    pub(super) compiled_bytes: usize,
}

impl Parser<'_> {
    /// `let` any number of times, then a result.
    pub(super) fn block(&mut self) -> Result<Typed, FilterError> {
        let outer = self.scope.len();
        let mut named = Vec::new();
        while self.take_word("let") {
            let Some(Token::Word(name)) = self.advance() else {
                return Err(self.refuse("expected a name"));
            };
            self.expect("=")?;
            let (value, kind) = self.expression()?;
            self.expect(";")?;
            if self.slots >= MAX_LOCALS {
                return Err(self.refuse("too many names"));
            }
            named.push((self.slots, value));
            self.scope.push((name, self.slots, kind));
            self.slots += 1;
        }
        let (result, kind) = self.expression()?;
        self.scope.truncate(outer);
        if named.is_empty() {
            return Ok((result, kind));
        }
        Ok((Expr::Block(named, Box::new(result)), kind))
    }

    /// Everything; one level deeper.
    pub(super) fn expression(&mut self) -> Result<Typed, FilterError> {
        self.deeper(Self::conditional)
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.refuse("nested too deeply"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn conditional(&mut self) -> Result<Typed, FilterError> {
        let (condition, kind) = self.any()?;
        if !self.take("?") {
            return Ok((condition, kind));
        }
        self.want(kind, Kind::Bool)?;
        let (yes, yes_kind) = self.expression()?;
        self.expect(":")?;
        let (no, no_kind) = self.expression()?;
        self.want(no_kind, yes_kind)?;
        let kind = if yes_kind == Kind::Unknown { no_kind } else { yes_kind };
        Ok((Expr::If(Box::new([condition, yes, no])), kind))
    }

    fn any(&mut self) -> Result<Typed, FilterError> {
        self.chain(&["||", "or"], Self::all, Expr::Any)
    }

    fn all(&mut self) -> Result<Typed, FilterError> {
        self.chain(&["&&", "and"], Self::comparison, Expr::All)
    }

    fn chain(
        &mut self,
        operators: &[&str; 2],
        member: fn(&mut Self) -> Result<Typed, FilterError>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Result<Typed, FilterError> {
        let (first, kind) = member(self)?;
        let mut members = vec![first];
        while operators.iter().any(|operator| self.take(operator) || self.take_word(operator)) {
            self.want(kind, Kind::Bool)?;
            let (next, next_kind) = member(self)?;
            self.want(next_kind, Kind::Bool)?;
            members.push(next);
        }
        match members.pop() {
            Some(only) if members.is_empty() => Ok((only, kind)),
            last => {
                members.extend(last);
                Ok((make(members), Kind::Bool))
            }
        }
    }

    fn comparison(&mut self) -> Result<Typed, FilterError> {
        let (left, left_kind) = self.sum()?;
        let negated = self.peek_word(1, "in") && self.take_word("not");
        let Some(operator) = self.comparison_operator() else {
            if self.take_word("matches") {
                return self.matches_operator((left, left_kind));
            }
            return Ok((left, left_kind));
        };
        let (right, right_kind) = self.sum()?;
        let wanted = match operator {
            Comparison::Equal | Comparison::Unequal => (right_kind, left_kind),
            Comparison::In => (Kind::Unknown, Kind::List),
            Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith => {
                (Kind::Text, Kind::Text)
            }
            _ => (Kind::Number, Kind::Number),
        };
        self.want(left_kind, wanted.0)?;
        self.want(right_kind, wanted.1)?;
        let compared = Expr::Compare(operator, Box::new([left, right]));
        let expr = if negated { Expr::Not(Box::new(compared)) } else { compared };
        Ok((expr, Kind::Bool))
    }

    fn comparison_operator(&mut self) -> Option<Comparison> {
        let operator = match self.peek()? {
            Token::Sign("==") => Comparison::Equal,
            Token::Sign("!=") => Comparison::Unequal,
            Token::Sign("<") => Comparison::Less,
            Token::Sign("<=") => Comparison::LessOrEqual,
            Token::Sign(">") => Comparison::Greater,
            Token::Sign(">=") => Comparison::GreaterOrEqual,
            Token::Word(word) => match word.as_str() {
                "in" => Comparison::In,
                "contains" => Comparison::Contains,
                "startsWith" => Comparison::StartsWith,
                "endsWith" => Comparison::EndsWith,
                _ => return None,
            },
            _ => return None,
        };
        self.next += 1;
        Some(operator)
    }

    fn sum(&mut self) -> Result<Typed, FilterError> {
        let (mut left, mut kind) = self.unary()?;
        let mut length = 0;
        while let Some(sign) = ["+", "-"].into_iter().find(|sign| self.take(sign)) {
            length += 1;
            if length > MAX_DEPTH {
                return Err(self.refuse("too long a sum"));
            }
            let (right, right_kind) = self.unary()?;
            self.want(right_kind, kind)?;
            kind = if kind == Kind::Unknown { right_kind } else { kind };
            left = match (sign, left) {
                ("-", left) => {
                    self.want(kind, Kind::Number)?;
                    kind = Kind::Number;
                    Expr::Subtract(Box::new([left, right]))
                }
                (_, Expr::Add(mut members)) => {
                    members.push(right);
                    Expr::Add(members)
                }
                (_, left) => Expr::Add(vec![left, right]),
            };
            if !(kind.fits(Kind::Number) || kind.fits(Kind::Text)) {
                return Err(self.refuse("only numbers and texts are added"));
            }
        }
        Ok((left, kind))
    }

    fn unary(&mut self) -> Result<Typed, FilterError> {
        if self.take("!") || self.take_word("not") {
            let (expr, kind) = self.deeper(Self::unary)?;
            self.want(kind, Kind::Bool)?;
            return Ok((Expr::Not(Box::new(expr)), Kind::Bool));
        }
        if self.take("-") {
            let (expr, kind) = self.deeper(Self::unary)?;
            self.want(kind, Kind::Number)?;
            let zero = Expr::Number(0.0);
            return Ok((Expr::Subtract(Box::new([zero, expr])), Kind::Number));
        }
        let mut typed = self.primary()?;
        let mut length = 0;
        while self.take("[") {
            length += 1;
            if length > MAX_DEPTH {
                return Err(self.refuse("nested too deeply"));
            }
            typed = self.bracket(typed)?;
        }
        Ok(typed)
    }

    /// After `[`: an index or a slice.
    fn bracket(&mut self, (expr, kind): Typed) -> Result<Typed, FilterError> {
        if !(kind.fits(Kind::Text) || kind.fits(Kind::List)) {
            return Err(self.refuse("only texts and lists have members"));
        }
        if matches!(expr, Expr::Unknown) {
            // A member of what is not known.
            self.deeper(Self::sum)?;
            self.expect("]")?;
            return Ok((Expr::Unknown, Kind::Unknown));
        }
        let from = if self.peek_sign(":") { None } else { Some(self.number()?) };
        if !self.take(":") {
            self.expect("]")?;
            let index = from.unwrap_or(Expr::Unknown);
            let kind = if kind == Kind::Text { Kind::Text } else { Kind::Unknown };
            return Ok((Expr::Index(Box::new([expr, index])), kind));
        }
        let to = if self.peek_sign("]") { None } else { Some(self.number()?) };
        self.expect("]")?;
        Ok((Expr::Slice(Box::new(expr), from.map(Box::new), to.map(Box::new)), kind))
    }

    fn number(&mut self) -> Result<Expr, FilterError> {
        // A slice's `:` would be taken for a conditional's, were this a whole expression.
        let (expr, kind) = self.deeper(Self::sum)?;
        self.want(kind, Kind::Number)?;
        Ok(expr)
    }

    fn primary(&mut self) -> Result<Typed, FilterError> {
        match self.advance() {
            Some(Token::Number(value)) => Ok((Expr::Number(value), Kind::Number)),
            Some(Token::Text(value)) => Ok((Expr::Text(value), Kind::Text)),
            Some(Token::Sign("(")) => {
                let typed = self.deeper(Self::block)?;
                self.expect(")")?;
                Ok(typed)
            }
            Some(Token::Sign("[")) => {
                let members = self.list("]")?.into_iter().map(|(expr, _)| expr).collect();
                Ok((Expr::List(members), Kind::List))
            }
            Some(Token::Sign("#")) if self.closures > 0 => Ok((Expr::Item, Kind::Unknown)),
            Some(Token::Word(word)) => self.word(word),
            _ => {
                self.next = self.next.saturating_sub(1);
                Err(self.refuse("expected a value"))
            }
        }
    }

    fn word(&mut self, word: String) -> Result<Typed, FilterError> {
        if word == "filter" && self.take(".") {
            return match self.advance() {
                Some(Token::Word(name)) => self.word(name),
                _ => Err(self.refuse("expected a function")),
            };
        }
        if self.take("(") {
            return calls::call(self, &word);
        }
        let local = self.scope.iter().rev().find(|(name, ..)| *name == word);
        if let Some((_, slot, kind)) = local {
            return Ok((Expr::Local(*slot), *kind));
        }
        match word.as_str() {
            "true" => Ok((Expr::Bool(true), Kind::Bool)),
            "false" => Ok((Expr::Bool(false), Kind::Bool)),
            "secret" => Ok((Expr::Field(Field::Secret), Kind::Text)),
            "match" => Ok((Expr::Field(Field::Matched), Kind::Text)),
            "line" => Ok((Expr::Field(Field::Line), Kind::Text)),
            "finding" => self.field(),
            // The path of a file, its commit, its author: there is none on the wire.
            "attributes" => {
                if ["[", ".", "?."].iter().any(|sign| self.peek_sign(sign)) {
                    self.member()?;
                }
                Ok((Expr::Unknown, Kind::Unknown))
            }
            "nil" => Ok((Expr::Unknown, Kind::Unknown)),
            _ => Err(self.refuse(&format!("unknown name {word}"))),
        }
    }

    /// After `finding`.
    fn field(&mut self) -> Result<Typed, FilterError> {
        let name = self.member()?;
        let (field, kind) = match name.as_str() {
            "secret" => (Field::Secret, Kind::Text),
            "match" => (Field::Matched, Kind::Text),
            "line" => (Field::Line, Kind::Text),
            "fragment_raw" => (Field::Raw, Kind::Text),
            "match_start_idx" => (Field::MatchStart, Kind::Number),
            "match_end_idx" => (Field::MatchEnd, Kind::Number),
            "match_line_start_idx" => (Field::LineStart, Kind::Number),
            "match_line_end_idx" => (Field::LineEnd, Kind::Number),
            _ => {
                self.unknown.push(format!("finding[\"{name}\"]"));
                return Ok((Expr::Unknown, Kind::Unknown));
            }
        };
        Ok((Expr::Field(field), kind))
    }

    /// `["name"]`, `.name`, or their forms that allow absence.
    fn member(&mut self) -> Result<String, FilterError> {
        let named = self.take("?.") | self.take(".");
        if self.take("[") {
            self.take("?");
            let Some(Token::Text(name)) = self.advance() else {
                return Err(self.refuse("expected a quoted name"));
            };
            self.expect("]")?;
            return Ok(String::from_utf8_lossy(&name).into_owned());
        }
        match self.advance() {
            Some(Token::Word(name)) if named => Ok(name),
            _ => Err(self.refuse("expected a member")),
        }
    }

    /// Members up to `end`; a comma may stand after the last.
    pub(super) fn list(&mut self, end: &'static str) -> Result<Vec<Typed>, FilterError> {
        let mut members = Vec::new();
        while !self.take(end) {
            members.push(self.expression()?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(members)
    }

    /// `{ … }` after a list, in which `#` is its member.
    pub(super) fn closure(&mut self) -> Result<Expr, FilterError> {
        self.closures += 1;
        let braced = self.take("{");
        let (body, _) = self.deeper(Self::block)?;
        if braced {
            self.expect("}")?;
        }
        self.closures -= 1;
        Ok(body)
    }

    fn matches_operator(&mut self, (left, kind): Typed) -> Result<Typed, FilterError> {
        self.want(kind, Kind::Text)?;
        let (pattern, _) = self.sum()?;
        let regex = calls::regex(self, &[pattern])?;
        Ok((Expr::Matches(Box::new(left), Box::new(regex)), Kind::Bool))
    }

    pub(super) fn want(&self, kind: Kind, wanted: Kind) -> Result<(), FilterError> {
        if kind.fits(wanted) {
            return Ok(());
        }
        Err(self.refuse(&format!("expected {}, found {}", wanted.name(), kind.name())))
    }

    pub(super) fn refuse(&self, reason: &str) -> FilterError {
        let at = self.tokens.get(self.next).map_or(self.text.len(), |(at, _)| *at);
        let compiled_bytes = self.compiled_bytes;
        FilterError { compiled_bytes, ..error(self.text, at, reason) }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn peek_word(&self, ahead: usize, word: &str) -> bool {
        let token = self.tokens.get(self.next + ahead).map(|(_, token)| token);
        matches!(token, Some(Token::Word(found)) if found == word)
    }

    fn advance(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.next += 1;
        token
    }

    fn peek_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    pub(super) fn take(&mut self, sign: &str) -> bool {
        let found = self.peek_sign(sign);
        self.next += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word(0, word);
        self.next += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, sign: &'static str) -> Result<(), FilterError> {
        if self.take(sign) { Ok(()) } else { Err(self.refuse(&format!("expected `{sign}`"))) }
    }
}
