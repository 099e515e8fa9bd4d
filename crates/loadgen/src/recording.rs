//! Recorded messages, to publish them again: NDJSON or CSV, a message to a line.
//!
//! One field has the time, another the topic, and the rest is the payload. Times are numbers (seconds, milliseconds,
//! microseconds or nanoseconds since 1970, told apart by their size) or RFC 3339. Only their distances count.
//!
//! The stamp that latency needs is put into the payload: in front of a JSON object's own keys. A line of CSV becomes an
//! object of strings.
//!
//! # Bounds       the file is held in memory

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::payload::Stamp;
use crate::scenario::{Recording, Refused};

/// A file of messages, by their time.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) topics: Vec<String>,
    /// By time, which counts from the first.
    pub(crate) ticks: Vec<Tick>,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) after_ns: u64,
    pub(crate) topic: usize,
    /// A JSON object without its first brace.
    rest: Vec<u8>,
}

/// Where a replay is.
#[derive(Debug)]
pub(crate) struct Playback {
    start_ns: u64,
    end_ns: u64,
    /// 0: as fast as can be.
    speed: f64,
    pub(crate) taken: usize,
}

impl Recorded {
    /// Reads a file; `prefix` stands before each topic.
    pub(crate) fn read(recording: &Recording, prefix: &str) -> Result<Self, Refused> {
        let file = &recording.file;
        let text =
            std::fs::read_to_string(file).map_err(|error| Refused(format!("cannot read {file}: {error}")))?;
        let is_csv = Path::new(file).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        let recorded = if is_csv { csv(&text, recording, prefix) } else { ndjson(&text, recording, prefix) };
        recorded.map_err(|problem| Refused(format!("{file}: {problem}")))
    }

    fn of(mut rows: Vec<(u64, String, Vec<u8>)>) -> Result<Self, String> {
        // Those of one moment keep their order.
        rows.sort_by_key(|row| row.0);
        let first_ns = rows.first().ok_or("there is no message in it")?.0;
        let mut numbers = BTreeMap::new();
        let mut recorded = Self::default();
        for (at_ns, topic, rest) in rows {
            let topic = *numbers.entry(topic).or_insert_with_key(|name| {
                recorded.topics.push(name.clone());
                recorded.topics.len() - 1
            });
            recorded.ticks.push(Tick { after_ns: at_ns - first_ns, topic, rest });
        }
        Ok(recorded)
    }

    /// How long it takes at `speed`, in nanoseconds; as fast as can be, not known.
    pub(crate) fn length_ns(&self, speed: f64) -> Option<u64> {
        let last = self.ticks.last().map_or(0, |tick| tick.after_ns);
        (speed > 0.0).then(|| (last as f64 / speed) as u64)
    }
}

impl Tick {
    /// The payload with its stamp.
    pub(crate) fn payload(&self, stamp: Stamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rest.len() + 48);
        stamp.write(&mut out);
        if self.rest.first() != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(&self.rest);
        out
    }
}

impl Playback {
    pub(crate) fn new(start_ns: u64, end_ns: u64, speed: f64) -> Self {
        Self { start_ns, end_ns, speed, taken: 0 }
    }

    pub(crate) fn is_unpaced(&self) -> bool {
        self.speed <= 0.0
    }

    /// When the next message is due; `None` after the last.
    pub(crate) fn next_due_ns(&self, recorded: &Recorded) -> Option<u64> {
        let tick = recorded.ticks.get(self.taken)?;
        let after_ns = if self.is_unpaced() { 0 } else { (tick.after_ns as f64 / self.speed) as u64 };
        Some(self.start_ns + after_ns).filter(|&due_ns| due_ns < self.end_ns)
    }

    pub(crate) fn stop(&mut self) {
        self.end_ns = 0;
    }
}

fn ndjson(text: &str, recording: &Recording, prefix: &str) -> Result<Recorded, String> {
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        let object = value.as_object().ok_or_else(|| format!("line {number}: not an object"))?;
        let field = |name: &str| {
            let known = || object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let missing = || format!("line {number}: no field {name}; there are {}", known());
            let value = object.get(name).ok_or_else(missing)?;
            Ok::<_, String>(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let at_ns =
            moment(&field(&recording.time)?).map_err(|problem| format!("line {number}: {problem}"))?;
        let rest = line.trim_start().strip_prefix('{').unwrap_or_default().trim_start();
        rows.push((at_ns, topic_of(prefix, &field(&recording.topic)?), rest.trim_end().as_bytes().to_vec()));
    }
    Recorded::of(rows)
}

fn csv(text: &str, recording: &Recording, prefix: &str) -> Result<Recorded, String> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let (_, head) = lines.next().ok_or("there is no message in it")?;
    let names = cells(head);
    let place = |name: &str| {
        let missing = || format!("line 1: no column {name}; there are {}", names.join(", "));
        names.iter().position(|column| column == name).ok_or_else(missing)
    };
    let (time, topic) = (place(&recording.time)?, place(&recording.topic)?);
    let mut rows = Vec::new();
    for (number, line) in lines {
        let values = cells(line);
        if values.len() != names.len() {
            return Err(format!("line {number}: {} columns, not {}", values.len(), names.len()));
        }
        let at_ns = moment(&values[time]).map_err(|problem| format!("line {number}: {problem}"))?;
        let quoted = |text: &str| Value::from(text).to_string();
        let pairs =
            names.iter().zip(&values).map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)));
        let rest = pairs.collect::<Vec<_>>().join(",") + "}";
        rows.push((at_ns, topic_of(prefix, &values[topic]), rest.into_bytes()));
    }
    Recorded::of(rows)
}

/// The cells of a line (RFC 4180); a quoted one holds no line end.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim_end_matches('\r').chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            letter => cell.push(letter),
        }
    }
    cells.push(cell);
    cells
}

/// A topic's name: what no name may have becomes a hyphen.
fn topic_of(prefix: &str, text: &str) -> String {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"_=@,;:!-".contains(&byte);
    let clean: String =
        text.bytes().map(|byte| if name(byte) || byte == b'.' { char::from(byte) } else { '-' }).collect();
    let segments = clean.split('.').filter(|segment| !segment.is_empty());
    let segments = (!prefix.is_empty()).then_some(prefix).into_iter().chain(segments);
    segments.collect::<Vec<_>>().join(".")
}

/// Nanoseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no time: a number, or as 2026-01-31T12:00:00.5Z");
    if let Ok(whole) = text.parse::<u64>() {
        let unit = match whole {
            0..100_000_000_000 => 1_000_000_000,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    if let Some((seconds, digits)) = text.split_once('.')
        && let (Ok(seconds), Some(fraction)) = (seconds.parse::<u64>(), nanoseconds_of(digits))
    {
        let whole = seconds.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(fraction));
        return whole.ok_or_else(wrong);
    }
    rfc3339(text).ok_or_else(wrong)
}

fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' '])?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_at);
    let numbers = |text: &str, mark: char| -> Option<[u64; 3]> {
        let parts: Vec<_> = text.split(mark).map(str::parse).collect::<Result<_, _>>().ok()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(time, ':')?;
    if !(1970..2500).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years are counted from March on, so that the leap day is the last of them.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, rest) => {
            let (hours, minutes) = rest.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    let seconds = (days * 86_400 + hour * 3_600 + minute * 60 + second).checked_add_signed(-offset)?;
    Some(seconds * 1_000_000_000 + nanoseconds_of(fraction)?)
}

/// The digits behind the point of seconds; past the ninth they say nothing.
fn nanoseconds_of(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number
        .then(|| digits.bytes().chain(std::iter::repeat(b'0')).take(9))?
        .try_fold(0, |number: u64, digit| Some(number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        Recording { file: String::new(), speed: 2.0, time: "time".into(), topic: "symbol".into() }
    }

    fn payload(tick: &Tick) -> String {
        let stamp = Stamp { intended_ns: 5, topic: tick.topic, sequence: 1 };
        let text = String::from_utf8(tick.payload(stamp)).unwrap();
        assert_eq!(Stamp::read(text.as_bytes()), Some(stamp));
        text.split_once(",\"n\":").unwrap().1[16..].to_owned()
    }

    #[test]
    fn lines_of_json_are_published_by_their_times() {
        let text = "{\"time\":1700000000500,\"symbol\":\"BTC/USD\",\"bid\":1.50}\n\n\
                    {\"symbol\":\"a..b\",\"time\":1700000000250 }\n";
        let recorded = ndjson(text, &recording(), "x").unwrap();
        assert_eq!(recorded.topics, ["x.a.b", "x.BTC-USD"]);
        let times: Vec<_> = recorded.ticks.iter().map(|tick| (tick.after_ns, tick.topic)).collect();
        assert_eq!(times, [(0, 0), (250_000_000, 1)]);
        assert_eq!(payload(&recorded.ticks[1]), r#","time":1700000000500,"symbol":"BTC/USD","bid":1.50}"#);
        let mut playback = Playback::new(100, u64::MAX, 2.0);
        assert_eq!(playback.next_due_ns(&recorded), Some(100));
        playback.taken = 1;
        assert_eq!(
            (playback.next_due_ns(&recorded), recorded.length_ns(2.0)),
            (Some(125_000_100), Some(125_000_000))
        );
    }

    #[test]
    fn a_line_of_csv_becomes_an_object() {
        let text = "time,symbol,note\r\n1.5,A,\"x, \"\"y\"\"\"\r\n1.0,B,\r\n";
        let recorded = csv(text, &recording(), "").unwrap();
        assert_eq!(recorded.topics, ["B", "A"]);
        assert_eq!(recorded.ticks[1].after_ns, 500_000_000);
        assert_eq!(payload(&recorded.ticks[1]), r#","time":"1.5","symbol":"A","note":"x, \"y\""}"#);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let check = |text: &str, expect: &str| {
            let found = ndjson(text, &recording(), "").unwrap_err();
            assert!(found.contains(expect), "{text}: {found}");
        };
        check("", "no message");
        check("{\"time\":1,\"symbol\":\"a\"}\n{", "line 2");
        check("{\"when\":1}", "no field time; there are when");
        check("{\"time\":\"noon\",\"symbol\":\"a\"}", "noon is no time");
        check("[1]", "not an object");
        assert!(csv("time,symbol\n1", &recording(), "").unwrap_err().contains("1 columns, not 2"));
        assert!(csv("a,b\n1,2", &recording(), "").unwrap_err().contains("no column time"));
    }

    #[test]
    fn times_are_read_in_any_unit() {
        let check = |text, expect| assert_eq!(moment(text).ok(), expect, "{text}");
        let at = 1_700_000_000_250_000_000;
        check("1700000000.25", Some(at));
        check("1700000000250", Some(at));
        check("1700000000250000", Some(at));
        check("1700000000250000000", Some(at));
        check("2023-11-14T22:13:20.25Z", Some(at));
        check("2023-11-14T23:13:20.25+01:00", Some(at));
        check("2000-02-29 00:00:00Z", Some(951_782_400_000_000_000));
        ["", "x", "-1", "2023-11-14", "2023-13-14T00:00:00Z", "1e300"]
            .into_iter()
            .for_each(|text| check(text, None));
    }
}
