//! Server-sent events (WHATWG HTML, section 9.2) as far as a check of them needs.
//!
//! An event is whole at the empty line that ends it. The data of one that lies whole in the read buffer is a slice of it;
//! of one that is cut, what came so far waits in `data`.
//!
//! # Bounds       of a cut event only the first [`PREFIX_BYTES`] of its data are kept
//! # Invariants   cut anywhere and chunked anyhow, the same events come out, up to their prefix

use std::borrow::Cow;

use crate::lines::{Line, Lines};
use crate::scanner::{PREFIX_BYTES, Violation};

/// One event that has data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'i> {
    pub(crate) name: Name,
    /// Of the `id: EPOCH:OFFSET` in this event.
    pub(crate) offset: Option<u64>,
    /// The data's length, a line feed between two of its lines.
    pub(crate) length: u64,
    /// Cut off after [`PREFIX_BYTES`] if it came in pieces.
    pub(crate) data: Cow<'i, [u8]>,
}

/// What an event is called.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// It has no name.
    #[default]
    Message,
    Gap,
    Subscribed,
    Other,
}

/// Where in an event the last read ended.
#[derive(Debug, Default)]
pub(crate) struct EventStream {
    lines: Lines,
    name: Name,
    offset: Option<u64>,
    /// Of the data that came so far; `None` before its first line.
    length: Option<u64>,
    data: Vec<u8>,
    /// The last `id`, where somebody wants it.
    last_id: Option<Box<str>>,
}

impl EventStream {
    /// One that remembers the last `id`.
    pub(crate) fn remembering() -> Self {
        Self { last_id: Some(Box::default()), ..Self::default() }
    }

    /// The last `id`, of one that remembers it.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().filter(|id| !id.is_empty())
    }

    /// The next whole event in `input`, which is moved past what was used. `None`: all of it is used up, or the stream is
    /// at its end. Events without data are none (section 9.2.6), and comments belong to no event.
    pub(crate) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, Violation> {
        let mut data = Cow::Owned(std::mem::take(&mut self.data));
        while let Some(line) = self.lines.next(input)? {
            if line.length == 0 {
                let (name, offset) = (std::mem::take(&mut self.name), self.offset.take());
                if let Some(length) = self.length.take() {
                    return Ok(Some(Event { name, offset, length, data }));
                }
                continue;
            }
            let (field, value) = split(line)?;
            match field {
                Field::Data => self.extend(&mut data, value),
                Field::Event => self.name = name_of(&value.bytes),
                Field::Id => {
                    self.offset = Some(offset_of(&value.bytes)?);
                    if let Some(last) = &mut self.last_id {
                        *last = String::from_utf8_lossy(&value.bytes).into();
                    }
                }
                Field::Other => {}
            }
        }
        data.to_mut().truncate(PREFIX_BYTES);
        self.data = data.into_owned();
        Ok(None)
    }

    /// The stream is at its end.
    pub(crate) fn is_last(&self) -> bool {
        self.lines.is_last()
    }

    fn extend<'i>(&mut self, data: &mut Cow<'i, [u8]>, value: Line<'i>) {
        let Some(length) = self.length else {
            self.length = Some(value.length);
            *data = value.bytes;
            return;
        };
        self.length = Some(length + 1 + value.length);
        // A prefix that is cut off stays a prefix.
        if data.len() as u64 == length {
            let data = data.to_mut();
            data.push(b'\n');
            data.extend_from_slice(&value.bytes);
            data.truncate(PREFIX_BYTES);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Data,
    Event,
    Id,
    /// A comment, `retry`, or what no client knows.
    Other,
}

/// A line's field and its value, the space behind the colon taken off.
fn split(line: Line<'_>) -> Result<(Field, Line<'_>), Violation> {
    let name_bytes = line.bytes.iter().position(|&byte| byte == b':').unwrap_or(line.bytes.len());
    let field = match &line.bytes[..name_bytes] {
        b"data" => Field::Data,
        b"event" => Field::Event,
        b"id" => Field::Id,
        b"" | b"retry" => Field::Other,
        _ => return Err(Violation("a field that no event has")),
    };
    let space = usize::from(line.bytes.get(name_bytes + 1) == Some(&b' '));
    let before = (name_bytes + 1 + space).min(line.bytes.len());
    let bytes = match line.bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[before..]),
        Cow::Owned(mut bytes) => {
            bytes.drain(..before);
            Cow::Owned(bytes)
        }
    };
    Ok((field, Line { length: line.length - before as u64, bytes }))
}

fn name_of(value: &[u8]) -> Name {
    match value {
        b"" | b"message" => Name::Message,
        b"gap" => Name::Gap,
        b"subscribed" => Name::Subscribed,
        _ => Name::Other,
    }
}

/// The offset of `EPOCH:OFFSET`.
fn offset_of(id: &[u8]) -> Result<u64, Violation> {
    let place = std::str::from_utf8(id).ok().and_then(|id| id.split_once(':'));
    match place.and_then(|(epoch, offset)| Some((epoch, offset.parse().ok()?))) {
        Some((epoch, offset)) if !epoch.is_empty() => Ok(offset),
        _ => Err(Violation("an id that is not EPOCH:OFFSET")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::tests::chunked;

    type Found = (Name, Option<u64>, u64, Vec<u8>);

    /// The events in `pieces`, read one after another, their data up to the prefix.
    fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Found> {
        let (mut stream, mut found) = (EventStream::default(), Vec::new());
        for mut piece in pieces {
            while let Some(event) = stream.next(&mut piece).unwrap() {
                // A line that is cut keeps a prefix with its field's name in it.
                let kept = event.data.len().min(PREFIX_BYTES - "data: ".len());
                assert!(event.data.len() as u64 == event.length || event.data.len() >= kept);
                found.push((event.name, event.offset, event.length, event.data[..kept].to_vec()));
            }
            assert!(piece.is_empty(), "all is used up");
        }
        found
    }

    fn contents() -> Vec<u8> {
        let long = "x".repeat(1_100);
        format!(
            "retry: 2000\n:ok\nid: e:7\ndata: {{\"bid\":\"1\"}}\n\n:\nevent: gap\ndata: {{\"from\":8,\"to\":9}}\n\n\
             id: e:10\ndata: a\ndata:b\ndata\n\nid: e:11\nevent: tick\ndata: {long}\n\nid: e:12\n\n\
             id: e:13\ndata: {long}\ndata: {long}\n\ndata: end\n\n"
        )
        .into_bytes()
    }

    #[test]
    fn a_stream_cut_in_two_anywhere_gives_the_same_events_as_the_whole() {
        let whole = scan([&chunked(&contents(), 10_000)[..]]);
        let heads: Vec<_> = whole.iter().map(|(name, offset, length, _)| (*name, *offset, *length)).collect();
        let expect = [
            (Name::Message, Some(7), 11),
            (Name::Gap, None, 17),
            (Name::Message, Some(10), 4),
            (Name::Other, Some(11), 1_100),
            (Name::Message, Some(13), 2_201),
            (Name::Message, None, 3),
        ];
        assert_eq!(heads, expect);
        assert_eq!(whole[2].3, b"a\nb\n");
        for size in [7, 100, 10_000] {
            let stream = chunked(&contents(), size);
            for cut in 0..=stream.len() {
                assert_eq!(scan([&stream[..cut], &stream[cut..]]), whole, "chunks of {size} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_stream_in_pieces_of_any_size_gives_the_same_events_as_the_whole() {
        let whole = scan([&chunked(&contents(), 10_000)[..]]);
        let stream = chunked(&contents(), 97);
        for size in 1..300 {
            assert_eq!(scan(stream.chunks(size)), whole, "pieces of {size}");
        }
        assert_eq!(scan(chunked(&contents(), 1).chunks(1)), whole, "a byte in each chunk and in each read");
    }

    #[test]
    fn lines_that_no_event_of_ours_has_are_violations() {
        let check = |line: &str, why| {
            let stream = chunked(format!("{line}\n\n").as_bytes(), 5);
            assert_eq!(EventStream::default().next(&mut &stream[..]), Err(Violation(why)), "{line}");
        };
        ["id: 7", "id: :7", "id: e:", "id: e:x", "id:"]
            .into_iter()
            .for_each(|line| check(line, "an id that is not EPOCH:OFFSET"));
        check("dada: 1", "a field that no event has");
        check("{\"a\":1}", "a field that no event has");
    }

    #[test]
    fn the_last_chunk_is_the_end() {
        let stream = [&chunked(b"data: 1\n\n", 4)[..], b"0\r\n\r\n"].concat();
        let (mut events, mut input) = (EventStream::default(), &stream[..]);
        assert!(events.next(&mut input).unwrap().is_some());
        assert!(!events.is_last());
        assert_eq!(events.next(&mut input), Ok(None));
        assert!(events.is_last());
    }
}
