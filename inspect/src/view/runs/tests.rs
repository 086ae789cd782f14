use super::*;
use proptest::prelude::*;

const TEXT: &[u8] =
    b"config:\nexample_token = abcdefghij0123456789\nand some more of it, and more\n";

fn wrap(digits: &[u8], width: usize, separator: &str) -> String {
    let lines: Vec<_> =
        digits.chunks(width).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    lines.join(separator)
}

fn only(text: &str) -> Region {
    let mut all = regions(text.as_bytes());
    assert_eq!(all.len(), 1, "{text}\n{all:?}");
    all.remove(0)
}

#[test]
fn base64_is_found_in_every_layout_and_written_again() {
    for url in [false, true] {
        for padded in [false, true] {
            let digits = base64(TEXT, url, padded);
            for width in [16, 19, 60, 64, 76, 1000] {
                for separator in ["\n", "\r\n", "\n    ", "\n> "] {
                    let wire = wrap(&digits, width, separator);
                    for (before, after) in [("", ""), ("key: ", "\nnext line"), ("\"", "\"")] {
                        let text = format!("{before}{wire}{after}");
                        let found = only(&text);
                        assert_eq!(found.bytes, TEXT, "{text}");
                        let same = found.encode(text.as_bytes(), TEXT);
                        assert_eq!(same, text.as_bytes()[found.span.clone()], "{text}");
                        for inner in [&b"short"[..], &TEXT.repeat(3)] {
                            let new = found.encode(text.as_bytes(), inner);
                            let text = [&text.as_bytes()[..found.span.start], &new].concat();
                            let digits: Vec<u8> =
                                new.iter().copied().filter(|b| is_digit(*b)).collect();
                            assert_eq!(sextets(&digits, 0).collect::<Vec<_>>(), inner, "{text:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn lines_with_numbers_and_signs_are_one_region() {
    let digits = base64(TEXT, false, true);
    let lines: Vec<&[u8]> = digits.chunks(40).collect();
    let text = |prefix: &dyn Fn(usize) -> String| -> String {
        let line = |(n, l): (usize, &&[u8])| prefix(n) + std::str::from_utf8(l).unwrap() + "\n";
        lines.iter().enumerate().map(line).collect()
    };
    for wire in [text(&|n| format!("{:6}\t", n + 9)), text(&|_| "+".into()), text(&|_| "-".into())]
    {
        assert_eq!(only(&wire).bytes, TEXT, "{wire}");
    }
}

#[test]
fn hexadecimal_digits_are_found() {
    for upper in [false, true] {
        let digits = String::from_utf8(hex(TEXT, upper)).unwrap();
        for text in [
            digits.clone(),
            format!("0x{digits}"),
            format!("id_{digits}"),
            wrap(digits.as_bytes(), 60, "\n"),
        ] {
            let found = only(&text);
            assert_eq!(found.bytes, TEXT, "{text}");
            let same = found.encode(text.as_bytes(), TEXT);
            assert_eq!(same, text.as_bytes()[found.span.clone()], "{text}");
        }
    }
}

#[test]
fn what_is_not_readable_is_left_out() {
    for text in [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "getElementByIdOrSomethingElse someLongIdentifierInCode",
        "src/components/shared/buttons/primary/index",
        "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4",
    ] {
        assert_eq!(regions(text.as_bytes()), []);
    }
}

#[test]
fn a_word_before_or_behind_does_not_hide_it() {
    let digits = String::from_utf8(base64(TEXT, false, false)).unwrap();
    for text in [format!("n{digits}"), format!("token_{digits}"), format!("{digits}\nword\n")] {
        let all = regions(text.as_bytes());
        let readable = String::from_utf8_lossy(&all[0].bytes).into_owned();
        assert!(readable.contains("example_token = abcdefghij0123456789"), "{text} {readable}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_regions_are_in_order(
        text in "([A-Za-z0-9+/=_-]{0,40}|[0-9a-f]{0,40}|\n|\r\n| |\\PC){0,60}",
    ) {
        let mut end = 0;
        for region in regions(text.as_bytes()) {
            prop_assert!(region.span.start >= end && region.span.end <= text.len());
            end = region.span.end;
        }
    }
}
