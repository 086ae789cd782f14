//! Makes text from the record harmless for a terminal.
//!
//! - input: any text: paths, header values and bodies are chosen by whoever was intercepted
//! - output: the same text with control characters, escape sequences and characters that reorder
//!   or hide text written as `\x1b` or `\u{202e}`
//! - bound: at most ten times the input
//! - on failure: cannot fail

use std::borrow::Cow;
use std::fmt::Write as _;

/// Text that stays on its line.
pub fn line(text: &str) -> Cow<'_, str> {
    clean(text, |_| false)
}

/// Text that may have lines and tabs; `\r\n` becomes `\n`.
pub fn block(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") {
        let unix = text.replace("\r\n", "\n");
        return Cow::Owned(clean(&unix, |c| c == '\n' || c == '\t').into_owned());
    }
    clean(text, |c| c == '\n' || c == '\t')
}

fn clean(text: &str, allowed: impl Fn(char) -> bool) -> Cow<'_, str> {
    let harmful = |c: char| is_harmful(c) && !allowed(c);
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !harmful(c) {
            out.push(c);
            continue;
        }
        let code = u32::from(c);
        let written = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ => write!(out, "\\u{{{code:x}}}"),
        };
        debug_assert!(written.is_ok(), "a String takes everything");
    }
    Cow::Owned(out)
}

/// Control characters (C0, DEL, C1: ESC, CSI and OSC among them), and the format characters that
/// reorder text (bidi), end a line, or are not seen.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{00ad}'
                | '\u{061c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Whether bytes are worth showing as text: UTF-8 with few control characters.
pub fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // A cut in the middle of a character is not the body's fault.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let controls = text.chars().filter(|c| c.is_control() && !c.is_ascii_whitespace()).count();
    // A few escapes do not make a text binary, a zero byte does.
    let few = controls * 10 <= text.chars().count() + 40 && !text.contains('\0');
    few.then_some(text)
}

/// The first bytes of something binary, sixteen to a line.
pub fn hexdump(bytes: &[u8], max_lines: usize) -> String {
    let mut out = String::new();
    for (i, row) in bytes.chunks(16).take(max_lines).enumerate() {
        let hex: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
        let shown: String = row
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        let written = writeln!(out, "{:08x}  {:<47}  |{shown}|", i * 16, hex.join(" "));
        debug_assert!(written.is_ok(), "a String takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_are_shown_instead_of_obeyed() {
        assert_eq!(line("\x1b[31mred\x1b[0m"), "\\x1b[31mred\\x1b[0m");
        assert_eq!(line("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
        assert_eq!(line("\u{9b}31m"), "\\x9b31m");
        assert_eq!(line("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(line("a\r\nb\tc"), "a\\r\\nb\\tc");
        assert_eq!(block("a\r\nb\tc\rd"), "a\nb\tc\\rd");
        assert_eq!(block("a\u{2028}b\u{feff}"), "a\\u{2028}b\\u{feff}");
    }

    #[test]
    fn ordinary_text_is_untouched() {
        let text = "größer 日本語 🦀 ñ – “quoted”";
        assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn binary_is_told_from_text() {
        assert_eq!(as_text("ok ü".as_bytes()), Some("ok ü"));
        assert_eq!(as_text(&"ü".as_bytes()[..1]), Some(""));
        assert_eq!(as_text(&[0x1f, 0x8b, 8, 0]), None);
        assert_eq!(as_text(&[0; 64]), None);
        assert_eq!(
            as_text(b"\x1b[1mbold is still text, with an escape\x1b[0m"),
            Some("\x1b[1mbold is still text, with an escape\x1b[0m")
        );
    }

    #[test]
    fn dumps_are_bounded_and_aligned() {
        let dump = hexdump(&[0x41; 100], 2);
        assert_eq!(dump.lines().count(), 2);
        assert!(dump.starts_with("00000000  41 41"), "{dump}");
        let short = hexdump(&[0x1b], 1);
        assert!(short.ends_with("|.|\n"), "{short}");
    }

    proptest! {
        #[test]
        fn nothing_harmful_passes(text in any::<String>()) {
            let cleaned = line(&text).into_owned();
            prop_assert!(!cleaned.contains(is_harmful));
            let cleaned = block(&text).into_owned();
            prop_assert!(!cleaned.contains(|c: char| is_harmful(c) && c != '\n' && c != '\t'));
        }
    }
}
