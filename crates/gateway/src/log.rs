//! The log: a line per event on standard error, as text or JSON, which nobody waits for.
//!
//! | what | who |
//! |---|---|
//! | which lines | `FANFARE_LOG`, as `info`, `warn,fanfare_gateway=info`: a release build has nothing below `info` |
//! | of those that clients can cause, how many | [`rate`] |
//! | how they look | `log_format` |
//! | when they are written | [`writer`]: a thread of its own, and a bounded queue before it |
//!
//! What a client chose goes through [`Shown`]. No line has a query, a token, or the value of a header
//! but `X-Request-Id`, and of that only what [`request_id`](crate::request_id) takes.

pub(crate) mod rate;
pub(crate) mod writer;

use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;
use writer::Writer;

/// The log of the process. When it is dropped, what waits is written, if somebody reads it within a second.
pub struct Log(Writer);

impl Log {
    /// Begins to take lines, those of a panic too; `lines_max` may wait. Once in a process.
    pub fn start(format: LogFormat, lines_max: usize) -> Self {
        let (writer, queue) = writer::start(lines_max);
        let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(queue);
        match format {
            LogFormat::Text => {
                lines.with_ansi(std::io::stderr().is_terminal()).finish().with(wanted()).init();
            }
            LogFormat::Json => {
                lines.json().flatten_event(true).with_current_span(false).finish().with(wanted()).init();
            }
        }
        // What the usual hook writes waits for the reader, on the thread that panicked.
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current();
            let words = panic.payload_as_str().unwrap_or("no words");
            let thread = thread.name().unwrap_or_default();
            tracing::error!(thread, place, words = %Shown(words.as_bytes()), "panic");
        }));
        Self(writer)
    }

    /// A line for whoever started the process.
    pub fn say(&self, line: &str) {
        self.0.line(format!("{line}\n").into_bytes());
    }
}

/// The lines that are wanted: those of `FANFARE_LOG`, if it can be read.
fn wanted() -> Targets {
    let wanted = std::env::var("FANFARE_LOG").ok().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.and_then(|wanted| wanted.parse().ok());
    wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// What a client sent, as it may stand in a line: everything but printable ASCII escaped, and cut.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

/// A field has at most so many bytes, and three points if there was more.
const FIELD_BYTES_MAX: usize = 256;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = FIELD_BYTES_MAX;
        for byte in self.0 {
            let escaped = std::ascii::escape_default(*byte);
            if escaped.len() > room {
                return f.write_str("...");
            }
            room -= escaped.len();
            escaped.into_iter().try_for_each(|byte| f.write_char(char::from(byte)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_one_short_piece_of_a_line() {
        fn check(bytes: &[u8], expect: &str) {
            assert_eq!(Shown(bytes).to_string(), expect);
        }
        check(b"", "");
        check(b"/topics/a.b", "/topics/a.b");
        check(b"a\r\n2026 ERROR forged", "a\\r\\n2026 ERROR forged");
        check(b"\x1b[31mred", "\\x1b[31mred");
        check("é\u{202e}".as_bytes(), "\\xc3\\xa9\\xe2\\x80\\xae");
        check(b"\xff\0\"", "\\xff\\x00\\\"");
        check(&[b'x'; 256], &"x".repeat(256));
        check(&[b'x'; 1 << 20], &format!("{}...", "x".repeat(256)));
        check(&[b'\n'; 1 << 20], &format!("{}...", "\\n".repeat(128)));
    }
}
