//! The negotiation of permessage-deflate (RFC 7692, section 7; RFC 6455, section 9.1).
//!
//! The first offer that can be kept is accepted, under conditions that let every subscriber read the same bytes: no message
//! refers to another, on either side, and the server's window is [`WINDOW_BITS`] for all. An offer that wants a smaller
//! one, that has a parameter twice, with a value it cannot have or that nobody defined, is passed over.
//!
//! ```text
//!   C  permessage-deflate; client_max_window_bits, permessage-deflate
//!   S  permessage-deflate; server_no_context_takeover; client_no_context_takeover
//! ```

use thiserror::Error;

use super::deflate::WINDOW_BITS;

/// What the server answers, if it can keep one of the offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To an offer that says nothing of the server's window.
    Plain,
    /// To one that does: the server says which window it has.
    Window,
}

/// The header is not a list of extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("Sec-WebSocket-Extensions is malformed")]
pub struct Malformed;

impl Answer {
    /// The value of the header in the response.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Plain => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            Self::Window => {
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"
            }
        }
    }
}

/// Finds the first offer that can be kept among the values of `Sec-WebSocket-Extensions`, one per header line.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Option<Answer>, Malformed> {
    let mut answer = None;
    for line in lines {
        let mut rest = Scanner(line);
        loop {
            rest.skip_space();
            // A list may have empty elements (RFC 9110, section 5.6.1).
            if !rest.0.is_empty() && !rest.0.starts_with(',') {
                let offer = rest.offer()?;
                answer = answer.or(offer);
            }
            if rest.0.is_empty() {
                break;
            }
            if !rest.take(b',') {
                return Err(Malformed);
            }
        }
    }
    Ok(answer)
}

/// What an offer says, as far as it can be kept.
#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_window: bool,
    client_window: bool,
}

impl Offer {
    /// Whether the parameter leaves the offer one that can be kept.
    fn admit(&mut self, name: &str, value: Option<&str>) -> bool {
        let (said, is_right) = match name {
            "server_no_context_takeover" => (&mut self.server_no_context_takeover, value.is_none()),
            "client_no_context_takeover" => (&mut self.client_no_context_takeover, value.is_none()),
            "server_max_window_bits" => {
                (&mut self.server_window, value.and_then(window_bits).is_some_and(|bits| bits >= WINDOW_BITS))
            }
            // The widest window is there for whatever the client chooses.
            "client_max_window_bits" => {
                (&mut self.client_window, value.is_none_or(|value| window_bits(value).is_some()))
            }
            _ => return false,
        };
        is_right && !std::mem::replace(said, true)
    }
}

/// 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!value.starts_with(['0', '+'])).then_some(bits)
}

/// What is left of a header line.
struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    /// One extension with its parameters.
    fn offer(&mut self) -> Result<Option<Answer>, Malformed> {
        let mut offer = Offer::default();
        let mut can_be_kept = self.token()? == "permessage-deflate";
        loop {
            self.skip_space();
            if !self.take(b';') {
                break;
            }
            self.skip_space();
            let name = self.token()?;
            self.skip_space();
            let value = match self.take(b'=') {
                true => {
                    self.skip_space();
                    Some(self.value()?)
                }
                false => None,
            };
            can_be_kept &= offer.admit(name, value);
        }
        let answer = if offer.server_window { Answer::Window } else { Answer::Plain };
        Ok(can_be_kept.then_some(answer))
    }

    /// A token, or one in quotes: what is in them has to be a token, too, so that nothing in it is escaped for a reason.
    fn value(&mut self) -> Result<&'a str, Malformed> {
        if !self.take(b'"') {
            return self.token();
        }
        let value = self.token()?;
        if self.take(b'"') { Ok(value) } else { Err(Malformed) }
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let len = self.0.bytes().take_while(is_token).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    fn take(&mut self, byte: u8) -> bool {
        let rest = self.0.strip_prefix(char::from(byte));
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Result<Option<Answer>, Malformed> = Ok(Some(Answer::Plain));
    const WINDOW: Result<Option<Answer>, Malformed> = Ok(Some(Answer::Window));
    const NONE: Result<Option<Answer>, Malformed> = Ok(None);

    fn check(lines: &[&str], expect: Result<Option<Answer>, Malformed>) {
        assert_eq!(negotiate(lines.iter().copied()), expect, "{lines:?}");
    }

    #[test]
    fn what_libraries_offer_is_accepted() {
        check(&["permessage-deflate"], PLAIN);
        check(&["permessage-deflate; client_max_window_bits"], PLAIN);
        check(&["permessage-deflate;client_max_window_bits=12;server_max_window_bits=12"], WINDOW);
        check(&["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], PLAIN);
        check(&["permessage-deflate; server_max_window_bits=\"15\""], WINDOW);
        check(&["permessage-deflate; server_max_window_bits=15; client_max_window_bits=8"], WINDOW);
        check(&["x-webkit-deflate-frame, permessage-deflate"], PLAIN);
        check(&["permessage-bzip2; x=1", "\tpermessage-deflate "], PLAIN);
        check(&[", ,permessage-deflate,"], PLAIN);
    }

    #[test]
    fn an_offer_that_cannot_be_kept_is_passed_over() {
        check(&[], NONE);
        check(&[""], NONE);
        check(&["x-webkit-deflate-frame; no_context_takeover"], NONE);
        check(&["PERMESSAGE-DEFLATE"], NONE);
        for parameters in [
            "server_max_window_bits=11",
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=012",
            "server_max_window_bits=+12",
            "server_max_window_bits=1e1",
            "server_max_window_bits",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=08",
            "client_max_window_bits; client_max_window_bits",
            "server_max_window_bits=12; server_max_window_bits=13",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover=1",
            "server_no_context_takeover=true",
            "mystery",
            "mystery=1",
        ] {
            let offer = format!("permessage-deflate; {parameters}");
            check(&[&offer], NONE);
            check(&[&format!("{offer}, permessage-deflate")], PLAIN);
            check(&[&offer, "permessage-deflate; server_max_window_bits=14"], WINDOW);
        }
    }

    #[test]
    fn what_is_no_list_of_extensions_is_an_error() {
        for line in [
            ";",
            "=",
            "permessage-deflate;",
            "permessage-deflate;;x",
            "permessage-deflate x",
            "permessage-deflate; x=",
            "permessage-deflate; x=\"",
            "permessage-deflate; x=\"\"",
            "permessage-deflate; x=\"1",
            "permessage-deflate; x=\"a b\"",
            "permessage-deflate; x=1=2",
            "permessage-deflate, \u{fc}",
            "permessage-deflate, \0",
        ] {
            check(&[line], Err(Malformed));
            check(&["permessage-deflate", line], Err(Malformed));
        }
    }

    #[test]
    fn the_answer_names_the_window_there_is() {
        assert!(Answer::Window.text().ends_with(&format!("server_max_window_bits={WINDOW_BITS}")));
        assert!(Answer::Window.text().starts_with(Answer::Plain.text()));
    }
}
