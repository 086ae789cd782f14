//! Checksums and structures inside values.
//!
//! - input: a value
//! - output: whether it is certain
//! - bound: time linear in the value, of which the first `limits::MAX_HELD_BYTES` are given
//! - on failure: what does not check out is not certain; it is a match all the same

/// Whether the value carries its own proof.
pub(super) fn is_certain(value: &[u8]) -> bool {
    has_base62_checksum(value) || is_jwt(value) || is_pem(value)
}

/// GitHub and npm: the prefix, 30 random characters, and their CRC-32 in six of base 62.
fn has_base62_checksum(value: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 6] = [b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"npm_"];
    let token = PREFIXES.iter().find_map(|prefix| value.strip_prefix(*prefix));
    let Some((random, sum)) = token.and_then(|token| token.split_at_checked(30)) else {
        return false;
    };
    let digit = |byte: &u8| -> Option<u64> {
        let (first, value) = match byte {
            b'0'..=b'9' => (b'0', 0),
            b'A'..=b'Z' => (b'A', 10),
            b'a'..=b'z' => (b'a', 36),
            _ => return None,
        };
        Some(u64::from(byte.saturating_sub(first)).saturating_add(value))
    };
    let number = sum
        .iter()
        .try_fold(0_u64, |number, byte| number.checked_mul(62)?.checked_add(digit(byte)?));
    sum.len() == 6 && number == Some(u64::from(crc32(random)))
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Three parts, the first of which is a JSON object that names an algorithm.
fn is_jwt(value: &[u8]) -> bool {
    let mut parts = value.split(|byte| *byte == b'.');
    let (Some(header), Some(_), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let header = base64url(header).and_then(|header| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header).ok()
    });
    header.is_some_and(|header| header.contains_key("alg"))
}

/// Begins like a private key, and goes on with base 64.
fn is_pem(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"-----BEGIN ") else { return false };
    const END: &[u8] = b"PRIVATE KEY-----";
    let Some(label) = rest.windows(END.len()).take(24).position(|window| window == END) else {
        return false;
    };
    let body = rest.get(label.saturating_add(END.len())..).unwrap_or_default();
    let body = body.strip_prefix(b"\\n").unwrap_or(body);
    let first: Vec<u8> =
        body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(48).collect();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    first.len() == 48 && first.iter().all(is_base64)
}

fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte.checked_sub(b'A')?,
            b'a'..=b'z' => byte.checked_sub(b'a' - 26)?,
            b'0'..=b'9' => byte.checked_add(52 - b'0')?,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xFF_FFFF;
        count = count.saturating_add(6);
        if count >= 8 {
            count = count.saturating_sub(8);
            out.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_a_token_certain() {
        // Published in the documentation of GitHub's format as an example with a valid checksum.
        let random = b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ";
        let mut sum = u64::from(crc32(random));
        let mut digits = Vec::new();
        const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        for _ in 0..6 {
            digits.insert(0, ALPHABET[usize::try_from(sum % 62).unwrap()]);
            sum /= 62;
        }
        let token = [b"ghp_".as_slice(), random, &digits].concat();
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(String::from_utf8_lossy(&digits), "0mLq17");
        assert!(is_certain(&token));
        let mut wrong = token;
        wrong[10] ^= 1;
        assert!(!is_certain(&wrong));
    }

    #[test]
    fn a_header_makes_a_jwt_certain() {
        assert!(is_certain(b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"));
        assert!(!is_certain(b"eyJzdWIiOiIxIn0.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"));
        assert!(!is_certain(b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0"));
    }

    #[test]
    fn a_private_key_with_a_body_is_certain() {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7".to_owned();
        assert!(is_certain(format!("-----BEGIN RSA PRIVATE KEY-----\n{body}").as_bytes()));
        assert!(is_certain(format!("-----BEGIN PRIVATE KEY-----\\n{body}").as_bytes()));
        assert!(!is_certain(b"-----BEGIN PRIVATE KEY-----\n... your key here ..."));
    }
}
