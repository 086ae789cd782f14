//! Points in time on the command line, and in answers.
//!
//! - input: `15m` (ago), `2026-01-31T12:00:00Z`, `2026-01-31 12:00`, `2026-01-31`; all UTC unless
//!   an offset is given
//! - output: microseconds since the Unix epoch; text in UTC
//! - bound: years 1970 to 2262
//! - on failure: a message with the accepted forms

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

use crate::clock::{Clock, WallUs};
use crate::config::units;

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]");
const SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const SHOWN: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");

/// Parses a point in time.
///
/// # Errors
/// Names the accepted forms.
pub fn parse(text: &str, clock: &dyn Clock) -> Result<WallUs, String> {
    if let Ok(ago) = units::duration(text) {
        let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
        return Ok(WallUs(clock.wall().0.saturating_sub(ago).max(0)));
    }
    let spaced = text.replacen('T', " ", 1);
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| PrimitiveDateTime::parse(&spaced, SECOND).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| PrimitiveDateTime::parse(&spaced, MINUTE).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| Date::parse(text, DAY).map(|day| day.midnight().assume_utc()));
    let us = parsed.ok().map(|at| at.unix_timestamp_nanos() / 1000).filter(|us| *us >= 0);
    us.and_then(|us| i64::try_from(us).ok()).map(WallUs).ok_or_else(|| {
        format!(
            "{text:?} is not a time such as \"15m\" (ago), \"2026-01-31 12:00\" or \
             \"2026-01-31T12:00:00Z\""
        )
    })
}

/// `2026-01-31 12:00:00.123`, in UTC.
pub fn show(at: WallUs) -> String {
    let shown = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1000)
        .ok()
        .and_then(|at| at.format(SHOWN).ok());
    shown.unwrap_or_else(|| format!("{} us", at.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;

    #[test]
    fn all_forms_parse() {
        let clock = FakeClock::at(WallUs(1_000_000_000_000_000));
        assert_eq!(parse("15m", &clock), Ok(WallUs(1_000_000_000_000_000 - 900_000_000)));
        let noon = WallUs(1_769_860_800_000_000);
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00",
            "2026-01-31 12:00",
        ] {
            assert_eq!(parse(text, &clock), Ok(noon), "{text}");
        }
        assert_eq!(show(noon), "2026-01-31 12:00:00.000");
        assert_eq!(parse("2026-01-31", &clock).map(show), Ok("2026-01-31 00:00:00.000".to_owned()));
    }

    #[test]
    fn nonsense_names_the_forms() {
        let clock = FakeClock::at(WallUs(0));
        for text in ["", "yesterday", "2026-13-01", "1969-01-01T00:00:00Z"] {
            assert!(parse(text, &clock).unwrap_err().contains("15m"), "{text}");
        }
    }
}
