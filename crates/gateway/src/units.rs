//! How counts, rates, sizes and times are written in the configuration.

#![expect(non_snake_case, reason = "the functions carry the names of `limits::Unit`'s variants")]

use std::time::Duration;

use crate::rate::Rate;

/// A whole number above 0.
pub(crate) fn Count(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a whole number above 0")),
        Ok(count) => Ok(count),
    }
}

/// So many a second, and so many at once after a pause: as many again, if that is not said. Or no bound.
pub(crate) fn Rate(text: &str) -> Result<Option<Rate>, String> {
    let error = || format!("{text:?} is not a rate such as 20, \"20 burst 100\" or off");
    if text.trim() == "off" {
        return Ok(None);
    }
    let number = |text: &str| text.trim().parse().ok().filter(|number| (1..=1_000_000_000).contains(number));
    let (per_second, burst) = text.split_once(" burst ").unwrap_or((text, text));
    let (per_second, burst) = (number(per_second).ok_or_else(error)?, number(burst).ok_or_else(error)?);
    Ok(Some(Rate { per_second, burst }))
}

/// A size above 0: bytes, or with the binary units of IEC 80000-13.
pub(crate) fn Bytes(text: &str) -> Result<usize, String> {
    let error = || format!("{text:?} is not a size such as 65536, 64KiB or 1MiB");
    let (number, unit) = split(text);
    let scale: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(error()),
    };
    let number: usize = number.parse().map_err(|_| error())?;
    number.checked_mul(scale).filter(|bytes| *bytes > 0).ok_or_else(error)
}

/// A time above 0.
pub(crate) fn Time(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is not a time such as 250ms, 10s, 2m or 1h");
    let (number, unit) = split(text);
    let scale: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    let milliseconds = number.checked_mul(scale).filter(|milliseconds| *milliseconds > 0);
    milliseconds.map(Duration::from_millis).ok_or_else(error)
}

/// The same the other way round: as one would write them, in the largest unit that is exact.
pub(crate) mod shown {
    use std::time::Duration;

    use crate::rate::Rate;

    pub(crate) fn Count(count: usize) -> String {
        count.to_string()
    }

    pub(crate) fn Rate(rate: Option<Rate>) -> String {
        match rate {
            None => "off".into(),
            Some(Rate { per_second, burst }) if per_second == burst => per_second.to_string(),
            Some(Rate { per_second, burst }) => format!("{per_second} burst {burst}"),
        }
    }

    pub(crate) fn Bytes(bytes: usize) -> String {
        largest(bytes as u64, &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "")])
    }

    pub(crate) fn Time(time: Duration) -> String {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // A minute is written in seconds: that is how nearly all of them are told.
        match milliseconds {
            60_000 => "60s".into(),
            _ => largest(milliseconds, &[(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")]),
        }
    }

    fn largest(number: u64, units: &[(u64, &str)]) -> String {
        let unit = units.iter().find(|(scale, _)| number.is_multiple_of(*scale));
        unit.map_or_else(|| number.to_string(), |(scale, unit)| format!("{}{unit}", number / scale))
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        fn bytes(text: &str, expect: Option<usize>) {
            assert_eq!(Bytes(text).ok(), expect, "{text:?}");
        }
        bytes("65536", Some(65_536));
        bytes("64KiB", Some(65_536));
        bytes(" 1 MiB ", Some(1 << 20));
        bytes("2GiB", Some(2 << 30));
        bytes("64KB", None);
        bytes("0", None);
        bytes("", None);
        bytes("-1", None);
        bytes("99999999999999999999GiB", None);
        bytes("18446744073709551615GiB", None);
        fn time(text: &str, expect: Option<u64>) {
            assert_eq!(Time(text).ok(), expect.map(Duration::from_millis), "{text:?}");
        }
        time("250ms", Some(250));
        time("10s", Some(10_000));
        time("2m", Some(120_000));
        time("1h", Some(3_600_000));
        time("10", None);
        time("0s", None);
        time("1.5s", None);
        fn rate(text: &str, expect: Option<(u32, u32)>) {
            let rate = Rate(text).ok().flatten();
            assert_eq!(rate.map(|rate| (rate.per_second, rate.burst)), expect, "{text:?}");
        }
        rate("20", Some((20, 20)));
        rate("20 burst 100", Some((20, 100)));
        rate(" 20  burst  1 ", Some((20, 1)));
        rate("1000000000", Some((1_000_000_000, 1_000_000_000)));
        rate("1000000001", None);
        rate("0", None);
        rate("20 burst 0", None);
        rate("20 burst", None);
        rate("20burst100", None);
        rate("20/s", None);
        assert_eq!(Rate("off"), Ok(None));
        assert!(Rate("never").is_err());
        assert_eq!(Count("12"), Ok(12));
        assert!(Count("0").is_err());
    }
}
