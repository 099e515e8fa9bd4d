//! Whether bytes are JSON (RFC 8259) of the kind that is published most: ASCII, without escapes, not nested deeply.
//!
//! One pass, which builds nothing. It never says yes to what is not JSON; a no says nothing, and whoever gets it asks a
//! whole parser, which also knows what is wrong.

/// Deeper values are left to the parser: a bit is kept for each.
const DEPTH_MAX: u32 = 64;

/// Whether `text` surely is one JSON value, with nothing but whitespace around it.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    let mut scan = Scan { text, at: 0 };
    // What the open values are, the innermost lowest: 1 for an object, 0 for an array.
    let (mut objects, mut depth) = (0_u64, 0);
    loop {
        let is_whole = match scan.next_token() {
            Some(first @ (b'{' | b'[')) => {
                let is_object = first == b'{';
                if scan.peek_token() == Some(if is_object { b'}' } else { b']' }) {
                    scan.at += 1;
                    true
                } else if depth == DEPTH_MAX || is_object && !scan.name() {
                    return false;
                } else {
                    objects = objects << 1 | u64::from(is_object);
                    depth += 1;
                    false
                }
            }
            Some(first) if scan.scalar(first) => true,
            _ => return false,
        };
        if is_whole {
            match scan.close(&mut objects, &mut depth) {
                Some(Next::End) => return true,
                Some(Next::Value) => {}
                None => return false,
            }
        }
    }
}

/// What follows a whole value.
enum Next {
    Value,
    End,
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The next byte that is not whitespace, which stays.
    fn peek_token(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.peek()
    }

    fn next_token(&mut self) -> Option<u8> {
        let token = self.peek_token()?;
        self.at += 1;
        Some(token)
    }

    /// Goes on behind a whole value, and out of all that end there. `None` if something else stands there.
    fn close(&mut self, objects: &mut u64, depth: &mut u32) -> Option<Next> {
        while *depth > 0 {
            let is_object = *objects & 1 == 1;
            match self.next_token()? {
                b',' if is_object => return self.name().then_some(Next::Value),
                b',' => return Some(Next::Value),
                b'}' if is_object => {}
                b']' if !is_object => {}
                _ => return None,
            }
            *objects >>= 1;
            *depth -= 1;
        }
        self.peek_token().is_none().then_some(Next::End)
    }

    /// A name in an object, and its colon.
    fn name(&mut self) -> bool {
        self.next_token() == Some(b'"') && self.string() && self.next_token() == Some(b':')
    }

    /// A value that has no others in it, behind its first byte.
    fn scalar(&mut self, first: u8) -> bool {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.word(b"rue"),
            b'f' => self.word(b"alse"),
            b'n' => self.word(b"ull"),
            _ => false,
        }
    }

    fn word(&mut self, rest: &[u8]) -> bool {
        let is_there = self.text[self.at..].starts_with(rest);
        self.at += rest.len();
        is_there
    }

    /// Behind the opening quote, through the closing one.
    fn string(&mut self) -> bool {
        const ONES: u64 = u64::MAX / 0xff;
        const HIGH: u64 = 0x80 * ONES;
        let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
        while let Some(bytes) = self.text[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*bytes);
            // Of the bytes that are marked wrongly each stands behind one that is marked rightly: the first is right.
            let control = word.wrapping_sub(0x20 * ONES) & !word & HIGH;
            let quote = is_zero(word ^ (u64::from(b'"') * ONES));
            let escape = is_zero(word ^ (u64::from(b'\\') * ONES));
            let found = control | quote | escape | word & HIGH;
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            self.at += bytes.len();
        }
        while let Some(b' '..=b'!' | b'#'..=b'[' | b']'..=0x7f) = self.peek() {
            self.at += 1;
        }
        let is_whole = self.peek() == Some(b'"');
        self.at += 1;
        is_whole
    }

    fn number(&mut self, first: u8) -> bool {
        let leading = if first == b'-' { self.peek() } else { Some(first) };
        if first == b'-' {
            self.at += 1;
        }
        match leading {
            Some(b'0') => {}
            Some(b'1'..=b'9') => self.digits(),
            _ => return false,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.some_digits() {
                return false;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            return self.some_digits();
        }
        true
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> bool {
        let start = self.at;
        self.digits();
        self.at > start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    fn is_json(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
    }

    #[test]
    fn plain_json_is_known_at_once() {
        for text in [
            r#"{"bid":"64000.10","ask":"64000.20","sizes":[1,2.5,-3e-7,0,-0.0E+10],"open":true,"more":{"a":null}}"#,
            " [ ] ",
            "{}",
            "[[],{},[{}],[[]]]",
            "{\r\n\t\"a\" : [ 1 , 2 ] ,\n\"b\" : { } }\n",
            r#""""#,
            r#""12345678""#,
            r#""a string of more than two words of eight bytes, and some""#,
            "0",
            "-1",
            "false",
            &format!("{}{}", "[".repeat(64), "]".repeat(64)),
        ] {
            assert!(is_plain(text.as_bytes()) && is_json(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        for text in [r#""\n""#, r#""ü""#, r#"{"\u0061":1}"#, &deep] {
            assert!(!is_plain(text.as_bytes()) && is_json(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_not_plain() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[",
            "]",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1,2}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "[1}",
            "{\"a\":1]",
            "1 2",
            "1,",
            "{}{}",
            "\"",
            "\"a",
            "\"12345678",
            "\"1234567\t\"",
            "\"\x01\"",
            "\"\x7f",
            "01",
            "-",
            "-a",
            "1.",
            ".1",
            "1e",
            "1e+",
            "+1",
            "0x1",
            "tru",
            "truex",
            "nul",
            "falsee",
            "NaN",
            "'a'",
            "[1]]",
            "[[1]",
            "//",
            "\u{feff}1",
            "1\0",
        ] {
            assert!(!is_plain(text.as_bytes()) && !is_json(text.as_bytes()), "{text:?}");
        }
    }

    proptest! {
        /// From the bytes that JSON is made of, so that much of it nearly is.
        #[test]
        fn nothing_but_json_is_plain(text in r#"[\[\]{}",:0-2eE+\-. \\nutrfalse\x01é]{0,24}"#) {
            prop_assert!(!is_plain(text.as_bytes()) || is_json(text.as_bytes()), "{}", text);
        }

        #[test]
        fn nothing_but_json_is_plain_after_a_change(at in any::<usize>(), byte: u8, insert: bool) {
            let mut text = br#"{"a":[1,2.50,-3e7,true,null],"text":"0123456789abcdef","b":{"c":{},"d":[]}}"#.to_vec();
            let at = at % text.len();
            if insert { text.insert(at, byte) } else { text[at] = byte }
            prop_assert!(!is_plain(&text) || is_json(&text), "{}", String::from_utf8_lossy(&text));
        }
    }
}
