//! Writes the seeds of the `publish_envelope` target, one input for each form of a publish and each rule about it:
//!
//! ```sh
//! cargo run --manifest-path fuzz/Cargo.toml --example publish_envelope_seeds
//! ```

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/publish_envelope");
    fs::create_dir_all(&corpus)?;
    for (name, input) in SEEDS {
        fs::write(corpus.join(name), input)?;
    }
    Ok(())
}

const SEEDS: [(&str, &[u8]); 22] = [
    ("item", br#"{"topic":"ticker.BTC-USD","data":{"bid":"64000.10","ask":64000.20}}"#),
    ("item_all_keys", br#" {"topic":"a.b","data":{"x": 1.10},"key":"k","event":"e\u0022","id":"i","more":1}"#),
    ("item_topics", br#"{"topics":["a","b\u002ec",""],"data":null}"#),
    ("item_binary", br#"{"topic":"a","data64":"AP8=","event":"e"}"#),
    ("item_bad_base64", br#"{"topic":"a","data64":"AP8"}"#),
    ("item_two_payloads", br#"{"topic":"a","data":1,"data64":""}"#),
    ("item_long_event", br#"{"topic":"a","data":"","event":"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789+"}"#),
    ("item_control_character", br#"{"topic":"a","data":1,"key":"\u0085"}"#),
    ("item_pretty", b"{\r\n  \"topic\": \"a\",\r\n  \"data\": {\r\n    \"x\": [ 1, 2 ]\r\n  }\r\n}\r\n"),
    ("elements", br#" [{"topic":"a","data":1}, {"topic":"b","data":[[]]},7] "#),
    ("elements_none", b"[]"),
    ("body_numbers", b"[1e400,-0.0,123456789012345678901234567890,1E-7]"),
    ("body_text", "k\u{f6}\u{df}\r\n\u{20ac}\"\\\u{2028}\u{10ffff}\0\u{7f}".as_bytes()),
    ("body_json_string", br#" "\ud83d\ude00\ud800\/\b" "#),
    ("body_bad_utf8", b"\"\xed\xa0\x80\""),
    ("body_deep", b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[{}]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
    ("content_type", b"Application/Vnd.X+JSON ;charset=utf-8"),
    ("command_publish", br#"{"type":"publish","id":5,"topic":"chat.1","data":{"x": 1.0 },"event":"e","key":"k"}"#),
    ("command_subscribe", br#"{"type":"subscribe","id":1,"topics":["a.b",{"topic":"a.*","from":"live"},{"topic":">","epoch":"k3x9","offset":7}]}"#),
    ("command_unsubscribe", br#"{"type":"unsubscribe","topics":["a",{"topic":"b"}]}"#),
    ("command_ping", br#"{"type":"ping","id":18446744073709551615}"#),
    ("command_unknown", br#"{"type":"dance","id":9}"#),
];
