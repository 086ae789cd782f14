//! Human units in configuration: `"30s"`, `"64MiB"`.
//!
//! - input: a TOML string
//! - output: [`Duration`] or bytes
//! - bound: durations up to 100 years, sizes up to 2^53 bytes
//! - on failure: a message that shows what would have been understood

use std::time::Duration;

/// Parses `250ms`, `30s`, `5m`, `8h`, `400d`.
///
/// # Errors
/// Names the accepted forms.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as \"250ms\", \"30s\", \"5m\", \"8h\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let ms_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.checked_mul(ms_per_unit).filter(|ms| *ms <= 100 * 366 * 86_400_000);
    ms.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is longer than 100 years"))
}

/// Parses `512B`, `64KiB`, `64MiB`, `20GiB`, `1TiB`.
///
/// # Errors
/// Names the accepted forms.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size such as \"512B\", \"64KiB\", \"64MiB\", \"20GiB\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(1_u64 << shift).filter(|b| *b <= 1 << 53);
    bytes.ok_or_else(|| format!("{text:?} is larger than 8192 TiB"))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_parse() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(28_800)));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("20 GiB"), Ok(20 << 30));
    }

    #[test]
    fn nonsense_is_refused_with_the_accepted_forms() {
        for text in ["", "5", "s", "-1s", "1.5s", "9999999999999999999s", "99999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "64MB", "MiB", "-1B", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".*") {
            let answers = (duration(&text).is_ok(), size(&text).is_ok());
            prop_assert!(!(answers.0 && answers.1));
        }
    }
}
