//! Where the syntax of RE2 and Go means something else than that of the `regex` crate.
//!
//! - input: a pattern
//! - output: the pattern, rewritten character by character
//! - bound: one pass, at most four times as long
//! - on failure: says which construct the `regex` crate has no equal for

/// Literal braces, brackets in classes, `\Q…\E`, `\<`, and operators of classes that Go lacks.
pub(super) fn translate(source: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let behind = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '\\' => escape(behind, &mut out)?,
            '[' => class(behind, &mut out)?,
            '{' => {
                // Without numbers in it, a brace is a brace.
                out.push_str(if is_repetition(behind) { "{" } else { r"\{" });
                behind
            }
            c => {
                out.push(c);
                behind
            }
        };
    }
    Ok(out)
}

/// Behind a backslash, outside of classes.
fn escape<'s>(behind: &'s str, out: &mut String) -> Result<&'s str, &'static str> {
    let Some(c) = behind.chars().next() else { return Err("ends with a backslash") };
    let rest = behind.get(c.len_utf8()..).unwrap_or_default();
    match c {
        'Q' => {
            let (literal, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex_syntax::escape(literal));
            return Ok(rest);
        }
        '0'..='7' => return octal(behind, out),
        'C' => return Err(r"\C, one byte of a character"),
        // Borders of words in the `regex` crate.
        '<' | '>' => out.push(c),
        'b' | 'B' if rest.starts_with('{') => {
            out.push_str(r"(?:\");
            out.push(c);
            out.push(')');
        }
        c => {
            out.push('\\');
            out.push(c);
            // The braces of `\x{…}` and `\p{…}` are not repetitions.
            if matches!(c, 'x' | 'p' | 'P') && rest.starts_with('{') {
                let (inside, rest) = rest.split_once('}').ok_or("unclosed brace")?;
                out.push_str(inside);
                out.push('}');
                return Ok(rest);
            }
        }
    }
    Ok(rest)
}

/// Behind a backslash: up to three octal digits.
fn octal<'s>(behind: &'s str, out: &mut String) -> Result<&'s str, &'static str> {
    let end = behind.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    let (digits, rest) = behind.split_at_checked(end).unwrap_or_default();
    match u32::from_str_radix(digits, 8) {
        Ok(code) if end > 1 || code == 0 => {
            out.push_str(&format!(r"\x{{{code:x}}}"));
            Ok(rest)
        }
        _ => Err("a backreference"),
    }
}

/// Behind the bracket that opens a class: everything to the one that closes it.
fn class<'s>(behind: &'s str, out: &mut String) -> Result<&'s str, &'static str> {
    out.push('[');
    let mut rest = behind;
    if let Some(negated) = rest.strip_prefix('^') {
        out.push('^');
        rest = negated;
    }
    let mut first = true;
    // Whether the last character was the hyphen of a range.
    let mut in_range = false;
    while let Some(c) = rest.chars().next() {
        let behind = rest.get(c.len_utf8()..).unwrap_or_default();
        let was_range = std::mem::replace(&mut in_range, false);
        let was_first = std::mem::replace(&mut first, false);
        rest = behind;
        match c {
            ']' if !was_first => {
                out.push(']');
                return Ok(rest);
            }
            '[' if behind.starts_with(':')
                && let Some((name, behind)) = behind.split_once(":]")
                && name.len() > 1
                && name.chars().skip(1).all(|c| c.is_ascii_lowercase() || c == '^') =>
            {
                out.push('[');
                out.push_str(name);
                out.push_str(":]");
                rest = behind;
            }
            '\\' if behind.starts_with(|c| matches!(c, '0'..='7')) => rest = octal(behind, out)?,
            '\\' => {
                let escaped = behind.chars().next();
                rest = behind.get(escaped.map_or(0, char::len_utf8)..).unwrap_or_default();
                if !matches!(escaped, Some('<' | '>')) {
                    out.push('\\');
                }
                out.extend(escaped);
            }
            '-' if was_first || was_range => out.push_str(r"\-"),
            '-' => {
                in_range = true;
                out.push('-');
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    Ok(rest)
}

/// Behind `{`: `n}`, `n,}` or `n,m}`.
fn is_repetition(behind: &str) -> bool {
    let Some((inside, _)) = behind.split_once('}') else { return false };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && number(least) && number(most)
}
