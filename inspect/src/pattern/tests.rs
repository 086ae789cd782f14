use super::*;

fn translated(source: &str) -> String {
    from_re2(source, Groups::None).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn matches(source: &str, text: &[u8]) -> bool {
    compile(&[translated(source)]).unwrap().is_match(text)
}

#[test]
fn what_go_reads_otherwise_is_rewritten() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (r"^\$(?:\d+|{\d+})$", &["$1", "${12}"], &["${a}"]),
        (r"^{{[^}]+}}$", &["{{a}}"], &["{a}"]),
        (r"^a{,3}$", &["a{,3}"], &["aaa"]),
        (r"^a{2,3}$", &["aa", "aaa"], &["a", "a{2,3}"]),
        (r"^a{x$", &["a{x"], &["a"]),
        (r"^[[(]$", &["[", "("], &["x"]),
        (r"^[]a]$", &["]", "a"], &["b"]),
        (r"^[^]a]$", &["b"], &["]", "a"]),
        (r"^[[:alpha:]_]$", &["a", "_"], &["1", ":"]),
        (r"^[[:^alpha:]]$", &["1"], &["a"]),
        (r"^[[:]$", &["[", ":"], &["a"]),
        (r"^[a&&b]$", &["a", "&", "b"], &["c"]),
        (r"^[a~~b]$", &["~"], &["c"]),
        (r"^[+--]$", &["+", ",", "-"], &["."]),
        (r"^[--/]$", &["-", ".", "/"], &["+"]),
        (r"^[a-]$", &["a", "-"], &["b"]),
        (r"^[\w .-/]$", &[".", "/", "x"], &["-"]),
        (r"^[\x41-\x43]$", &["B"], &["D"]),
        (r"^\<a\>$", &["<a>"], &["a"]),
        (r"^[\<\>]$", &["<"], &["\\"]),
        (r"^\Qa.b*\E+$", &["a.b*", "a.b**"], &["axb*"]),
        (r"^\Qa.b", &["a.bc"], &["axb"]),
        (r"^\101\60[\102]$", &["A0B"], &["101"]),
        (r"a\z", &["ba"], &["ab"]),
        (r"^(?i)ab(?-i)c$", &["ABc"], &["ABC"]),
        (r"^x(?:(?i)a)b$", &["xAb"], &["xAB"]),
        (r"^(?i:a|b)c$", &["Bc"], &["BC"]),
        (r"^•+$", &["•", "•••"], &["a"]),
        (r"^[0-9]+(?:us|µs|μs)$", &["1µs", "1us"], &["1ms"]),
        (r"^[µa]+$", &["aµ"], &["b"]),
        (r"^\x{263a}\p{Greek}\pL$", &["☺αb"], &["☺a1"]),
        (r"^(?s:.)$", &["\n"], &["ab"]),
        (r"^(?P<name>a)(?<other>b)$", &["ab"], &["a"]),
        (r"\bkey\b", &["a key."], &["akey"]),
    ];
    for (source, yes, no) in table {
        for text in *yes {
            assert!(matches(source, text.as_bytes()), "{source} on {text}: {}", translated(source));
        }
        for text in *no {
            assert!(
                !matches(source, text.as_bytes()),
                "{source} on {text}: {}",
                translated(source)
            );
        }
    }
    // Bytes, not characters.
    assert!(matches(r#"^"[^"]{3}"$"#, b"\"\xff\xfe\x00\""));
}

#[test]
fn groups_become_the_one_of_the_secret() {
    let groups = |pattern: &str| compile(&[pattern.to_owned()]).unwrap().captures_len() - 1;
    let source = r"(?i)(a|(b))(?P<x>c)(?:d)(e)?";
    assert_eq!(groups(&from_re2(source, Groups::None).unwrap()), 0);
    assert_eq!(groups(&from_re2(source, Groups::All).unwrap()), 4);
    for wanted in 1..=4 {
        let pattern = from_re2(source, Groups::Only(wanted)).unwrap();
        assert_eq!(groups(&pattern), 1, "{pattern}");
    }
    let pattern = from_re2(r"(key)=(\w+)", Groups::Only(2)).unwrap();
    let regex = compile(&[pattern]).unwrap();
    let mut captures = regex.create_captures();
    regex.captures("key=abc", &mut captures);
    assert_eq!(captures.get_group(1).unwrap().range(), 4..7);
    for wanted in [0, 5] {
        let error = from_re2(source, Groups::Only(wanted)).unwrap_err();
        assert!(matches!(error, PatternError::Group { has: 4, .. }), "{error}");
    }
}

#[test]
fn context_is_what_stands_before_the_secret() {
    for (pattern, context) in [
        (r"\bghp_[a-z]{3}\b", false),
        (r"\b(ghp_[a-z]{3})\b", false),
        (r"(?:^|[^a-z])(ghp_[a-z]{3})", false),
        (r"(?i)key[ \t]{0,3}=([a-z]{3})", true),
        (r"(?:key=(a+)|word:(b+))", true),
        (r"(?:.*)(a+)", true),
    ] {
        let pattern = from_re2(pattern, Groups::All).unwrap();
        assert_eq!(has_context(&pattern), context, "{pattern}");
    }
}

#[test]
fn hostile_patterns_are_refused_in_bounded_time() {
    let long = "a".repeat(limits::MAX_PATTERN_BYTES + 1);
    assert!(matches!(from_re2(&long, Groups::None), Err(PatternError::Long(_))));
    let deep = "(".repeat(3000) + &")".repeat(3000);
    assert!(matches!(from_re2(&deep, Groups::None), Err(PatternError::Syntax(_))));
    let bombs =
        ["(((a{1000}){1000}){1000}){1000}", r"(?:\w{1000}|[^a]{999}){1000}", r"\pL{1000}{99}"];
    for bomb in bombs {
        let pattern = from_re2(bomb, Groups::None).unwrap();
        assert!(matches!(compile(&[pattern]), Err(PatternError::Large)), "{bomb}");
    }
    for broken in
        ["(", "a)", "[a", "*", "a**{", "\\", r"\8", r"[\d-z]", r"(?P<a", r"\C", r"\p{No", "[b-a]"]
    {
        if let Ok(pattern) = from_re2(broken, Groups::None) {
            assert!(broken == "a**{", "{broken} became {pattern}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_pattern_panics(source in r"[a-z\\\[\]{}()?*+.^$|:&~\-<>QEpP0-9,µ ]{0,40}") {
        if let Ok(pattern) = from_re2(&source, Groups::All) {
            let _outcome = compile(&[pattern]);
        }
    }
}
