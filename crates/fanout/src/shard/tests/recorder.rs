//! A sink that remembers what left the shard, and shows it in short.

use super::*;
use crate::sink::{Sink, Written};
use std::collections::HashMap;
use std::io::IoSlice;

/// What left the shard, write by write: the slot and the payloads, with spaces between the frames of one slice and
/// bars between slices. A socket without a row in `room` takes everything.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) writes: Vec<(u32, String)>,
    /// All bytes that a socket took.
    taken: HashMap<u32, Vec<u8>>,
    pub(super) room: HashMap<u32, usize>,
    pub(super) gone: Vec<u32>,
}

impl Sink for Recorder {
    fn write(&mut self, to: SubscriberId, bytes: &[u8]) -> Written {
        self.write_vectored(to, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, to: SubscriberId, slices: &[IoSlice<'_>]) -> Written {
        if self.gone.contains(&to.slot) {
            return Written::PeerGone;
        }
        let total = slices.iter().map(|slice| slice.len()).sum();
        assert_ne!(total, 0, "a write of nothing");
        let room = self.room.get_mut(&to.slot).map(|room| std::mem::take(room).min(total));
        let written = room.unwrap_or(total);
        let bytes = slices.iter().flat_map(|slice| slice.iter()).take(written);
        self.taken.entry(to.slot).or_default().extend(bytes);
        match written {
            0 => Written::Blocked,
            written if written == total => {
                let slices: Vec<_> = slices.iter().map(|slice| payloads(slice)).collect();
                self.writes.push((to.slot, slices.join("|")));
                Written::Bytes(written)
            }
            written => Written::Bytes(written),
        }
    }
}

impl Recorder {
    /// What the client read since the last call.
    pub(super) fn read(&mut self, id: SubscriberId) -> String {
        let bytes = self.taken.remove(&id.slot).unwrap_or_default();
        payloads(&bytes)
    }
}

/// The payloads of whole short frames, or of chunks. Native messages are their payload, gaps are `<a1-3 slow>`, topics
/// `(a 0)`, statuses `(a stale)`, marks `=7`, and what is behind a cut frame `…`.
fn payloads(mut bytes: &[u8]) -> String {
    let mut payloads = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        if *first >= 0x80 {
            let (payload, rest) = rest.split_at(usize::from(*len));
            payloads.push(in_short(None, std::str::from_utf8(payload).unwrap()));
            bytes = rest;
            continue;
        }
        let text = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once("\r\n"));
        let Some((size, rest)) = text.filter(|(size, _)| usize::from_str_radix(size, 16).is_ok()) else {
            payloads.push("…".into());
            break;
        };
        let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
        let (event, data) = chunk.split_once("data: ").unwrap_or((chunk, ""));
        payloads.push(match event.trim_end().split_once(": ") {
            Some(("id", place)) => format!("={}", place.split_once(':').unwrap().1),
            event => in_short(event.map(|(_, event)| event), data),
        });
        bytes = rest.strip_prefix("\r\n").unwrap().as_bytes();
    }
    payloads.join(" ")
}

fn in_short(event: Option<&str>, text: &str) -> String {
    let Ok(serde_json::Value::Object(value)) = serde_json::from_str(text) else { return text.to_owned() };
    let text = |key: &str| value.get(key).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
    match event.or_else(|| value.get("type").and_then(|kind| kind.as_str())) {
        Some("gap") => format!("<{}{}-{} {}>", text("topic"), text("from"), text("to"), text("reason")),
        Some("topic") => format!("({} {})", text("topic"), text("offset")),
        Some("status") => format!("({} {})", text("topic"), text("status")),
        _ => text("data"),
    }
}
