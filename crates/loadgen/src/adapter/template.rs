//! Templates of what is sent: literal text with escapes, and fields in braces.
//!
//! | | |
//! |---|---|
//! | `\r` `\n` `\t` `\\` `\xNN` | bytes |
//! | `{topic}`, `{topic.len16}` | the topic's name; its length in two bytes, the high one first |
//! | `{payload}`, `{payload.bytes}`, `{payload.json}` | the message; its length in digits; the message as the inside of a JSON string |
//! | `{rest.varint}` | how many bytes follow in this template, as MQTT writes numbers |
//! | `{n}` | a number that grows with each use on a connection |
//! | `{{`, `}}` | braces |

use std::io::Write as _;

use serde::{Deserialize, Deserializer};

/// A template that was read without fault.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Topic,
    TopicLength,
    Payload,
    PayloadLength,
    PayloadJson,
    Rest,
    Number,
}

/// What the fields stand for.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) number: u64,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut literal) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let part = &rest[letter.len_utf8()..];
            rest = match letter {
                '\\' => escape(part, &mut literal)?,
                '{' if part.starts_with('{') => {
                    literal.push(b'{');
                    &part[1..]
                }
                '}' if part.starts_with('}') => {
                    literal.push(b'}');
                    &part[1..]
                }
                '{' => {
                    let (name, after) = part.split_once('}').ok_or("a field without its }; a brace is {{")?;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(field(name)?);
                    after
                }
                '}' => return Err("a } without its field; a brace is }}".to_owned()),
                _ => {
                    literal.extend_from_slice(&rest.as_bytes()[..letter.len_utf8()]);
                    part
                }
            };
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn names_topic(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Topic | Part::TopicLength))
    }

    /// Appends it with `values` in its fields.
    pub(crate) fn render(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        for (at, part) in self.parts.iter().enumerate() {
            let sure = "a Vec takes every write";
            match part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::Topic => out.extend_from_slice(values.topic.as_bytes()),
                Part::TopicLength => out.extend_from_slice(&(values.topic.len() as u16).to_be_bytes()),
                Part::Payload => out.extend_from_slice(values.payload),
                Part::PayloadLength => write!(out, "{}", values.payload.len()).expect(sure),
                Part::PayloadJson => escape_json(values.payload, out),
                Part::Number => write!(out, "{}", values.number).expect(sure),
                Part::Rest => {
                    let rest = Self { parts: self.parts[at + 1..].to_vec() }.rendered(values);
                    varint(rest.len(), out);
                    out.extend_from_slice(&rest);
                    return;
                }
            }
        }
    }

    pub(crate) fn rendered(&self, values: &Values<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.render(values, &mut out);
        out
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Takes what follows a backslash.
fn escape<'t>(text: &'t str, literal: &mut Vec<u8>) -> Result<&'t str, String> {
    let wrong = || "after a \\ stands r, n, t, \\ or xNN".to_owned();
    let (byte, length) = match text.as_bytes().first() {
        Some(b'r') => (b'\r', 1),
        Some(b'n') => (b'\n', 1),
        Some(b't') => (b'\t', 1),
        Some(b'\\') => (b'\\', 1),
        Some(b'x') => {
            let digits = text.get(1..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            (u8::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?, 3)
        }
        _ => return Err(wrong()),
    };
    literal.push(byte);
    Ok(&text[length..])
}

fn field(name: &str) -> Result<Part, String> {
    Ok(match name {
        "topic" => Part::Topic,
        "topic.len16" => Part::TopicLength,
        "payload" => Part::Payload,
        "payload.bytes" => Part::PayloadLength,
        "payload.json" => Part::PayloadJson,
        "rest.varint" => Part::Rest,
        "n" => Part::Number,
        _ => return Err(format!("unknown field {{{name}}}")),
    })
}

/// Seven bits to a byte, the lowest first; the high bit says that more follow (MQTT 5.0, section 1.5.5).
fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What a JSON string must not have as it is (RFC 8259, section 7).
fn escape_json(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => write!(out, "\\u{byte:04x}").expect("a Vec takes every write"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, values: &Values<'_>, expect: &[u8]) {
        let found = Template::parse(template).unwrap().rendered(values);
        assert_eq!(found, expect, "{template} gave {}", String::from_utf8_lossy(&found));
    }

    #[test]
    fn fields_and_escapes_become_bytes() {
        let values = Values { topic: "a.b", payload: br#"{"x":"1\2"}"#, number: 7 };
        check("", &values, b"");
        check("plain ü", &values, "plain ü".as_bytes());
        check(r"\r\n\t\\\x00\xfF", &values, b"\r\n\t\\\x00\xff");
        check("/pub/{topic}?n={n}", &values, b"/pub/a.b?n=7");
        check("{{{payload}}}", &values, br#"{{"x":"1\2"}}"#);
        check("{payload.bytes}", &values, b"11");
        check("\"{payload.json}\"", &values, br#""{\"x\":\"1\\2\"}""#);
        check("{payload.json}", &Values { payload: b"\n\x01", ..values }, br"\n\u0001");
        check("{topic.len16}{topic}", &values, b"\x00\x03a.b");
        check("{rest.varint}{topic}", &values, b"\x03a.b");
    }

    #[test]
    fn lines_of_nats_are_written() {
        let values = Values { topic: "load.0", payload: b"hello", number: 3 };
        check(
            r#"CONNECT {{"verbose":false}}\r\nPING\r\n"#,
            &values,
            b"CONNECT {\"verbose\":false}\r\nPING\r\n",
        );
        check(r"SUB {topic} {n}\r\n", &values, b"SUB load.0 3\r\n");
        check(r"PUB {topic} {payload.bytes}\r\n{payload}\r\n", &values, b"PUB load.0 5\r\nhello\r\n");
    }

    #[test]
    fn packets_of_mqtt_are_written() {
        let values = Values { topic: "a/b", payload: b"hi", number: 1 };
        // CONNECT: protocol MQTT, level 4, clean session, keep alive 60 s, client id f1.
        check(
            r"\x10{rest.varint}\x00\x04MQTT\x04\x02\x00\x3c\x00\x02f{n}",
            &values,
            b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02f1",
        );
        // SUBSCRIBE: packet 1, quality of service 0.
        check(
            r"\x82{rest.varint}\x00\x01{topic.len16}{topic}\x00",
            &values,
            b"\x82\x08\x00\x01\x00\x03a/b\x00",
        );
        // PUBLISH with quality of service 0; past 127 bytes the length takes two.
        check(r"\x30{rest.varint}{topic.len16}{topic}{payload}", &values, b"\x30\x07\x00\x03a/bhi");
        let long = Values { payload: &[b'x'; 200], ..values };
        let expect = [b"\x30\xcd\x01\x00\x03a/b".as_slice(), &[b'x'; 200]].concat();
        check(r"\x30{rest.varint}{topic.len16}{topic}{payload}", &long, &expect);
    }

    #[test]
    fn wrong_templates_are_refused() {
        let check = |template, expect: &str| {
            let found = Template::parse(template).unwrap_err();
            assert!(found.contains(expect), "{template}: {found}");
        };
        check("{topic", "a brace is {{");
        check("a } b", "a brace is }}");
        check("{topics}", "unknown field {topics}");
        check(r"\q", r"after a \");
        check(r"\x1", r"after a \");
        check(r"\xzz", r"after a \");
        check(r"\x+1", r"after a \");
        check("\\", r"after a \");
    }
}
