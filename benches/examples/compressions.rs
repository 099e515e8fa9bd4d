//! Compressions of native JSON messages, for callgrind to count: `compressions BYTES COUNT`.
//!
//! The payload is a tick that grows by levels of the book: digits that nobody can foresee, and words that come again. The
//! difference of two runs, over the difference of their counts, is what a compression costs:
//!
//! ```text
//!   valgrind --tool=callgrind target/release/examples/compressions 1024 100
//!   valgrind --tool=callgrind target/release/examples/compressions 1024 300
//! ```

use std::fmt::Write;

use fanfare_benches::topic;
use fanfare_wire::websocket::deflate;
use fanfare_wire::{Draft, Epoch, FormatId, Kind, Message, Position};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let bytes = arguments.next().unwrap_or(1024);
    let count = arguments.next().unwrap_or(100);
    let mut digits = Digits(1);
    // Made beforehand and used in turn, so that another count is that many compressions more.
    let payloads: Vec<_> = (0..16).map(|_| tick(bytes, &mut digits)).collect();
    let (mut plain, mut compressed) = (0, 0);
    for (offset, payload) in (1..=count as u64).zip(payloads.iter().cycle()) {
        let mut draft = Draft::new(topic(0), Kind::Json, payload.as_bytes());
        draft.deflate = true;
        let message = Message::new(draft, Position { epoch: Epoch::new(1), offset }, offset);
        plain += message.frame(FormatId::JSON).len();
        compressed += message.frame(FormatId::JSON_DEFLATE).len();
    }
    let compressions = deflate::take_counts().messages;
    println!("{compressions} compressions, frames of {} and {} bytes", plain / count, compressed / count);
}

/// A JSON object of at least `bytes` bytes, 60 more at most.
fn tick(bytes: usize, digits: &mut Digits) -> String {
    let mut tick = format!(
        r#"{{"symbol":"BTC-USD","time":17356896{},"bid":"64{}.{}","ask":"64{}.{}""#,
        digits.take(5),
        digits.take(3),
        digits.take(2),
        digits.take(3),
        digits.take(2)
    );
    if tick.len() < bytes {
        tick.push_str(r#","book":[["64000.00","1.0000"]"#);
    }
    while tick.len() < bytes {
        let _ = write!(
            tick,
            r#",["64{}.{}","{}.{}"]"#,
            digits.take(3),
            digits.take(2),
            digits.take(1),
            digits.take(4)
        );
    }
    tick.push_str(if tick.contains("book") { "]}" } else { "}" });
    tick
}

/// Digits without a pattern, the same in each run.
struct Digits(u64);

impl Digits {
    fn take(&mut self, count: usize) -> String {
        let digit = |_| {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'0' + (self.0 >> 33) as u8 % 10)
        };
        (0..count).map(digit).collect()
    }
}
