//! How a subscriber asks for its topic, and what the answer's head must say: one way for each format.

use crate::args::Format;
use crate::http;
use crate::subscriber::Ended;
use crate::websocket::KEY;

/// The request for messages of `topic` from now on; over `/ws` the topic is asked for later.
pub(crate) fn request(format: Format, topic: &str, host: &str) -> String {
    let path = match format {
        Format::Raw | Format::Sse | Format::Ndjson => format!("/topics/{topic}?from=live"),
        Format::Json => "/ws".to_owned(),
        Format::Events => format!("/events?topic={topic}&from=live"),
    };
    let headers = match format {
        Format::Raw | Format::Json => {
            let protocol =
                if format == Format::Json { "Sec-WebSocket-Protocol: fanfare.v1.json\r\n" } else { "" };
            format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\n{protocol}"
            )
        }
        Format::Sse | Format::Events | Format::Ndjson => format!("Accept: {}\r\n", media_type(format)),
    };
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")
}

/// Whether a head answers [`request`]; `accept` answers [`KEY`].
pub(crate) fn check(format: Format, head: &str, accept: &str) -> Result<(), Ended> {
    let expect = if format.is_websocket() { 101 } else { 200 };
    match http::status(head) {
        Some(status) if status == expect => {}
        Some(status) => return Err(Ended::Refused(status)),
        None => return Err(Ended::Violation("no status line")),
    }
    if format.is_websocket() {
        let accepted = http::header(head, "sec-websocket-accept") == Some(accept);
        return if accepted { Ok(()) } else { Err(Ended::Violation("a wrong Sec-WebSocket-Accept")) };
    }
    let has = |name, start| http::header(head, name).is_some_and(|value| value.starts_with(start));
    match () {
        () if !has("content-type", media_type(format)) => Err(Ended::Violation("another content type")),
        () if !has("transfer-encoding", "chunked") => Err(Ended::Violation("a stream without chunks")),
        () => Ok(()),
    }
}

fn media_type(format: Format) -> &'static str {
    if format == Format::Ndjson { "application/x-ndjson" } else { "text/event-stream" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_what_was_asked_for() {
        let check = |format, head: &str, expect: Result<(), Ended>| {
            assert_eq!(check(format, &head.replace('|', "\r\n"), "yes"), expect, "{format}: {head}");
        };
        let upgraded = "HTTP/1.1 101 Switching Protocols|Sec-WebSocket-Accept: yes||";
        let lines = "HTTP/1.1 200 OK|Content-Type: application/x-ndjson|Transfer-Encoding: chunked||";
        check(Format::Raw, upgraded, Ok(()));
        check(Format::Ndjson, lines, Ok(()));
        check(
            Format::Json,
            &upgraded.replace("yes", "no"),
            Err(Ended::Violation("a wrong Sec-WebSocket-Accept")),
        );
        check(Format::Ndjson, upgraded, Err(Ended::Refused(101)));
        check(Format::Sse, lines, Err(Ended::Violation("another content type")));
        check(Format::Events, "HTTP/1.1 404 Not Found||", Err(Ended::Refused(404)));
        let whole = "HTTP/1.1 200 OK|Content-Type: text/event-stream|Content-Length: 5||";
        check(Format::Sse, whole, Err(Ended::Violation("a stream without chunks")));
        check(Format::Sse, "SMTP||", Err(Ended::Violation("no status line")));
    }
}
