//! JSON that is hard to read: deep, huge, double, or none. It is refused by name, or handed on as it came.

use serde_json::Value;

use crate::support::Gateway;
use crate::support::metrics::{metric, resident_bytes};
use crate::support::peer::{Peer, publish, request};
use crate::witnesses::Witnesses;

fn deep(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

fn wide(count: usize) -> String {
    format!("[{}0]", "0,".repeat(count))
}

#[test]
fn json_that_is_hard_to_read_harms_nobody() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let before = resident_bytes(&gateway);
    let (mut reader, _) = Peer::subscribed(gateway.address, &["a"]);
    let mut writer = Peer::native(gateway.address).0;
    let mut check = |json: &str, is_json: bool| {
        let name = &json[..json.len().min(40)];
        let answer = publish(gateway.address, "a", "application/json", json);
        assert_eq!(answer.status, if is_json { 200 } else { 400 }, "{name}: {answer:?}");
        // The same inside of an item, where all of it has to be passed over to find its end.
        let item = format!(r#"{{"topic":"a","data":{json}}}"#);
        let answer =
            request(gateway.address, "POST", "/publish", &[("content-type", "application/json")], &item);
        assert_eq!(answer.status == 200 && answer.json()["errors"] == false, is_json, "{name}: {answer:?}");
        // And in a command.
        writer.say(&format!(r#"{{"type":"publish","id":1,"topic":"a","data":{json}}}"#));
        let said = writer.json();
        assert_eq!(said["type"], if is_json { "published" } else { "error" }, "{name}: {said}");
        for _ in 0..if is_json { 3 } else { 0 } {
            let text = reader.text();
            assert!(text.contains(&format!(r#""data":{json}"#)), "{name}: another byte");
        }
        assert_eq!(writer.fence(), [Value::Null; 0]);
        witnesses.are_served(name);
    };
    for bad in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "'a'",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "0x1",
        "NaN",
        "Infinity",
        "1e",
        "\"\\x\"",
        "\"\\u12\"",
        "tru",
        "nul",
        "1 2",
        "[]]",
        "/**/1",
        "\"\u{1}\"",
        "\"a\nb\"",
        "\u{feff}1",
    ] {
        check(bad, false);
    }
    // Nothing here is read by recursion: depth is the readers' business.
    check(&deep(10_000), true);
    check(&("{\"a\":".repeat(8_000) + "1" + &"}".repeat(8_000)), true);
    check(&"[".repeat(50_000), false);
    check(&"{\"a\":[".repeat(10_000), false);
    check(&wide(30_000), true);
    // Numbers are not read: whoever reads them decides what they are.
    check("1e400", true);
    check("-0", true);
    check(&"9".repeat(60_000), true);
    check("18446744073709551616", true);
    check("0.1000000000000000055511151231257827021181583404541015625", true);
    // Of two fields with one name, all go on.
    check(r#"{"a":1,"a":2,"topic":"b","type":"welcome"}"#, true);
    check(r#"{"__proto__":{"x":1},"constructor":1}"#, true);
    check("\"\u{2028}\u{2029}\u{7f}\u{202e}\"", true);
    check("\"<script>alert(1)</script>\"", true);
    assert!(resident_bytes(&gateway) < before + (32 << 20), "it costs more than it is");
}

#[test]
fn a_command_of_odd_values_is_an_error_and_no_more() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let (mut peer, _) = Peer::native(gateway.address);
    for command in [
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","epoch":"x","offset":-1}]}"#,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","epoch":"x","offset":18446744073709551616}]}"#,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","epoch":"x","offset":1.5}]}"#,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","epoch":7,"offset":1}]}"#,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","max_hz":1e400}]}"#,
        r#"{"type":"subscribe","id":1,"topics":[{"topic":"a","max_hz":-1}]}"#,
        r#"{"type":"subscribe","id":1,"topics":{"a":1}}"#,
        r#"{"type":"subscribe","id":1,"topics":[["a"]]}"#,
        r#"{"type":"subscribe","type":"ping","id":1}"#,
        r#"{"type":"subscribe","id":1e999,"topics":["a"]}"#,
        r#"{"type":"publish","id":1,"topic":"a","data64":"="}"#,
        r#"{"type":"publish","id":1,"topic":"a","topic":"b","data":1}"#,
        r#"{"type":"publish","id":1,"topic":"\ud800","data":1}"#,
        r#"{"type":["publish"],"id":1}"#,
        r#"{"type":null}"#,
        "[]",
        "null",
        "\"subscribe\"",
    ] {
        peer.say(command);
        let said = peer.json();
        assert_eq!(said["type"], "error", "{command}: {said}");
        assert!(said.to_string().len() < 600, "{said}");
        assert_eq!(peer.fence(), [Value::Null; 0], "{command}");
        witnesses.are_served(command);
    }
    assert_eq!(metric(&gateway, "fanfare_topics"), 1.0, "the witnesses'");
}
