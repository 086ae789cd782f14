//! SPIFFE ids: who a workload is, and the trust domain that says so (SPIFFE-ID sections 2 and 3).
//!
//! - input: text from anybody
//! - output: the name of the trust domain
//! - bound: 255 bytes a trust domain, 2048 bytes an id
//! - on failure: none; what is not exactly an id is none

const MAX_DOMAIN_BYTES: usize = 255;
const MAX_ID_BYTES: usize = 2048;

/// Whether it is the name of a trust domain.
pub fn is_trust_domain(text: &str) -> bool {
    let char = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    !text.is_empty() && text.len() <= MAX_DOMAIN_BYTES && text.bytes().all(char)
}

/// The trust domain of the id of a workload; an id without path is no workload's.
pub fn trust_domain(id: &str) -> Option<&str> {
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let char = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let part =
        |part: &str| !part.is_empty() && part.bytes().all(char) && !matches!(part, "." | "..");
    let fits = id.len() <= MAX_ID_BYTES && is_trust_domain(domain) && path.split('/').all(part);
    fits.then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_exact_ids_have_a_trust_domain() {
        for id in ["spiffe://a.example/x", "spiffe://a.example/ns/y/sa/z-1_2.3"] {
            assert_eq!(trust_domain(id), Some("a.example"), "{id}");
        }
        for id in [
            "",
            "spiffe://",
            "spiffe://a.example",
            "spiffe://a.example/",
            "spiffe://a.example//x",
            "spiffe://a.example/x/",
            "spiffe://a.example/../x",
            "spiffe://a.example/./x",
            "spiffe://A.example/x",
            "SPIFFE://a.example/x",
            "spiffe://a.example:8443/x",
            "spiffe://u@a.example/x",
            "spiffe://a.example/x?y",
            "spiffe://a.example/x#y",
            "spiffe://a.example/%78",
            "https://a.example/x",
            "spiffe:///x",
        ] {
            assert_eq!(trust_domain(id), None, "{id}");
        }
        assert!(!is_trust_domain(&"a".repeat(256)));
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".*") {
            let id = format!("spiffe://a.example/{text}");
            prop_assert!(trust_domain(&id).is_none_or(|domain| domain == "a.example"));
        }
    }
}
