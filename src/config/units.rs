//! Amounts and times as people write them: `50GiB`, `80%`, `1m30s`; and back again for what is shown to people.
//!
//! Sizes are bytesize's: `KiB`, `MiB`, `GiB`, `TiB` (or `Ki` …) are powers of 1024, `kB`, `MB`, `GB`, `TB` (or `k` …)
//! powers of 1000, in any case of letters; a bare number is bytes. Times are humantime's: `1h 30m`, `250ms`, `30days`.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;

/// Bytes, or a share of a file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// A share of the file system's size, in percent, above 0 and up to 100.
    Percent(f64),
}

impl Amount {
    /// The amount in bytes on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }

    /// Parses `50GiB` or `80%`; `0%` is no bytes. The error says what is wrong, without repeating `text`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else { return size(text).map(Self::Bytes) };
        match number.trim_end().parse() {
            Ok(0.0) => Ok(Self::Bytes(0)),
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self::Percent(percent)),
            Ok(_) => Err("a share is from 0% to 100%".into()),
            Err(_) => Err("'%' comes after a number".into()),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => ByteSize(*bytes).display().iec().fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Parses a number of bytes. The error says what is wrong, without repeating `text`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    if number.is_empty() || !number.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return Err("a size is a number and a unit".into());
    }
    match text.parse::<ByteSize>() {
        // bytesize saturates.
        Ok(ByteSize(u64::MAX)) => Err("that is more than 16 EiB".into()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err("the units are B, KiB, MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000)".into()),
    }
}

/// Longer than anybody waits, and short enough that adding it to a clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Parses a time. The error says what is wrong, without repeating `text`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err("that is more than 100 years".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1KiB", 1024),
            ("1kib", 1024),
            ("1Ki", 1024),
            ("1kB", 1000),
            ("1K", 1000),
            ("1.5 GiB", 3 << 29),
            ("50GiB", 50 << 30),
            (" 50 GB ", 50_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "-1", "-1GiB", "1..5GiB", "1GiBs", "1 furlong", "20EiB", "1e3", "0x10", "٣GiB", "1GiB2"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts() {
        assert_eq!(Amount::parse("80%"), Ok(Amount::Percent(80.0)));
        assert_eq!(Amount::parse("0.5 %"), Ok(Amount::Percent(0.5)));
        assert_eq!(Amount::parse("0%"), Ok(Amount::Bytes(0)));
        assert_eq!(Amount::parse("1MiB"), Ok(Amount::Bytes(1 << 20)));
        for bad in ["%", "-1%", "100.1%", "NaN%", "inf%", "80%%", "x%", ""] {
            assert!(Amount::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Amount::Percent(80.0).of(1000), 800);
        assert_eq!(Amount::Bytes(7).of(1000), 7);
    }

    #[test]
    fn times() {
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for bad in ["", "30", "-1s", "1 fortnight", "101years", "18446744073709551615s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_are_written() {
        assert_eq!(Amount::Bytes(50 << 30).to_string(), "50.0 GiB");
        assert_eq!(Amount::Percent(5.0).to_string(), "5%");
        assert_eq!(Amount::Percent(0.5).to_string(), "0.5%");
    }
}
