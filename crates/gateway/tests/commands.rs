//! `fanfare publish`, `fanfare subscribe` and `fanfare healthcheck`, as typed in a shell.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use support::config_file::ConfigFile;
use support::metrics::{eventually, until_metric};
use support::wire::Wire;
use support::{Gateway, PATIENCE, fanfare};

/// A running `fanfare subscribe`, ended with the test.
struct Subscriber {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Subscriber {
    fn start(address: SocketAddr, args: &[&str]) -> Self {
        let url = format!("http://{address}");
        let mut command = fanfare();
        command.args(["subscribe", "--url", &url]).args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim_end_matches('\n').to_owned()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn publish(gateway: &Gateway, args: &[&str], input: &str) -> Output {
    let url = gateway.url("");
    let mut command = fanfare();
    command.args(["publish", "--url", &url]).args(args);
    run(command, input)
}

fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

#[test]
fn lines_go_in_on_one_side_and_come_out_on_the_other() {
    let gateway = Gateway::start(&[]);
    let mut subscriber = Subscriber::start(gateway.address, &["logs.web", "--from", "earliest"]);
    until_metric(&gateway, "fanfare_subscribed_topics", |topics| topics == 1.0);
    let done = publish(&gateway, &["logs.web"], "one\n\ntwo \"quoted\"\r\nthree");
    assert!(done.status.success(), "{done:?}");
    for expect in ["one", "two \"quoted\"", "three"] {
        assert_eq!(subscriber.line(), expect);
    }
    assert!(publish(&gateway, &["logs.web", "four"], "").status.success());
    assert_eq!(subscriber.line(), "four");
}

#[test]
fn several_topics_are_told_apart() {
    let gateway = Gateway::start(&[]);
    let json = ["--content-type", "application/json"];
    assert!(publish(&gateway, &[&["a", r#"{"x": 1.10}"#], &json[..]].concat(), "").status.success());
    assert!(publish(&gateway, &["b", "text"], "").status.success());
    let mut plain = Subscriber::start(gateway.address, &["a", "b"]);
    assert_eq!([plain.line(), plain.line()], ["a\t{\"x\": 1.10}", "b\ttext"]);
    let mut whole = Subscriber::start(gateway.address, &["a", "--json"]);
    assert_eq!(whole.line(), r#"{"topic":"a","offset":1,"data":{"x": 1.10}}"#);
}

#[test]
fn a_refusal_that_will_not_change_ends_it() {
    let gateway = Gateway::start(&[]);
    let refused = publish(&gateway, &["bad topic", "x"], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad_topic"), "{refused:?}");
    let refused = publish(&gateway, &["a", "{", "--content-type", "application/json"], "");
    assert_eq!(refused.status.code(), Some(1));
    let mut command = fanfare();
    command.args(["subscribe", "--url", &gateway.url(""), "bad topic"]);
    assert_eq!(run(command, "").status.code(), Some(1));
    let mut command = fanfare();
    command.args(["subscribe", "--url", "nonsense", "a"]);
    assert_eq!(run(command, "").status.code(), Some(1));
    assert_eq!(run(fanfare(), "").status.code(), Some(2), "a subcommand is missing");
}

#[test]
fn a_cut_wire_costs_nothing_and_brings_nothing_twice() {
    let gateway = Gateway::start(&[]);
    let wire = Wire::to(gateway.address);
    let numbers = |range: std::ops::RangeInclusive<u32>| -> String {
        range.map(|number| format!("{number}\n")).collect()
    };
    assert!(publish(&gateway, &["a"], &numbers(1..=3)).status.success());
    let mut subscriber = Subscriber::start(wire.address, &["a", "--from", "earliest"]);
    (1..=3).for_each(|number| assert_eq!(subscriber.line(), number.to_string()));
    for (cuts, first) in [(1.0, 4), (2.0, 7)] {
        wire.cut();
        until_metric(&gateway, "fanfare_closes_total{reason=\"peer_gone\"}", |closes| closes >= cuts);
        assert!(publish(&gateway, &["a"], &numbers(first..=first + 2)).status.success());
        (first..=first + 2).for_each(|number| assert_eq!(subscriber.line(), number.to_string()));
    }
}

/// Ends like Ctrl-C does.
fn interrupt(process: &Child) {
    let sent = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The exit code, and all that it said on standard error.
fn end(mut process: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    if let Some(mut stderr) = process.stderr.take() {
        stderr.read_to_string(&mut said).unwrap();
    }
    (process.wait().unwrap().code(), said)
}

#[test]
fn a_file_is_published_line_by_line() {
    let gateway = Gateway::start(&[]);
    let file = ConfigFile::new("one\ntwo\n\nthree");
    let done = publish(&gateway, &["logs.web", "--file", file.path()], "");
    assert!(done.status.success(), "{done:?}");
    assert!(publish(&gateway, &["logs.web", "--file", "-"], "four\n").status.success());
    // More lines than one request may have.
    let many: String = (0..25_000).map(|number| format!("{number}\n")).collect();
    let done = publish(&gateway, &["many", "--file", ConfigFile::new(many).path()], "");
    assert!(done.status.success(), "{done:?}");
    let mut subscriber = Subscriber::start(gateway.address, &["logs.web", "--from", "earliest"]);
    for expect in ["one", "two", "three", "four"] {
        assert_eq!(subscriber.line(), expect);
    }
    let mut subscriber = Subscriber::start(gateway.address, &["many", "--json"]);
    assert_eq!(subscriber.line(), r#"{"topic":"many","offset":25000,"data":"24999"}"#);
}

#[test]
fn what_cannot_be_published_is_one_clear_line() {
    let gateway = Gateway::start(&[]);
    for (args, code, message) in [
        (&["a", "--file", "/nowhere"][..], 1, "fanfare: --file /nowhere: No such file"),
        (&["a", "--file", "/"], 1, "fanfare: cannot read on: Is a directory"),
        (&["a", "x", "--file", "/nowhere"], 2, "'[MESSAGE]' cannot be used with '--file <PATH>'"),
        (&["a", "x", "--file", "-"], 2, "'[MESSAGE]' cannot be used with '--file <PATH>'"),
    ] {
        let refused = publish(&gateway, args, "");
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(message), "{refused:?}");
    }
}

#[test]
fn an_interrupt_ends_a_subscriber_with_0() {
    let gateway = Gateway::start(&[]);
    assert!(publish(&gateway, &["a", "x"], "").status.success());
    let mut subscriber = Subscriber::start(gateway.address, &["a"]);
    assert_eq!(subscriber.line(), "x");
    interrupt(&subscriber.process);
    assert_eq!(subscriber.process.wait().unwrap().code(), Some(0));
    // While there is no gateway, too.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = fanfare();
    command.args(["subscribe", "--url", &format!("http://{nowhere}"), "a"]).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(process.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with(&format!("fanfare: cannot connect to {nowhere}: ")), "{said}");
    interrupt(&process);
    assert_eq!(end(process).0, Some(0));
}

#[test]
fn an_interrupted_publisher_publishes_what_it_has_read() {
    let gateway = Gateway::start(&[]);
    let mut command = fanfare();
    command.args(["publish", "--url", &gateway.url(""), "a"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // Stays open, as the output of `journalctl -f` does.
    let mut input = process.stdin.take().unwrap();
    input.write_all(b"one\ntwo\n").unwrap();
    let mut subscriber = Subscriber::start(gateway.address, &["a", "--from", "earliest"]);
    assert_eq!([subscriber.line(), subscriber.line()], ["one", "two"]);
    interrupt(&process);
    assert_eq!(end(process), (Some(0), String::new()));

    // What cannot go out any more is said.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = fanfare();
    command.args(["publish", "--url", &format!("http://{nowhere}"), "a", "x"]).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("; again in "), "{line}");
    interrupt(&process);
    interrupt(&process);
    assert_eq!(process.wait().unwrap().code(), Some(1));
    said.read_to_string(&mut line).unwrap();
    assert!(line.ends_with("fanfare: interrupted: what was read last may not be published\n"), "{line}");
}

#[test]
fn a_subscriber_whose_output_is_closed_ends_quietly() {
    let gateway = Gateway::start(&[]);
    assert!(publish(&gateway, &["a", "x"], "").status.success());
    // `is_idle`: no message comes after the close.
    for is_idle in [true, false] {
        let mut command = fanfare();
        command.args(["subscribe", "--url", &gateway.url(""), "a"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "x\n");
        drop(output);
        if !is_idle {
            assert!(publish(&gateway, &["a", "x"], "").status.success());
        }
        eventually(|| process.try_wait().unwrap().is_some(), "it ends");
        assert_eq!(end(process), (Some(0), String::new()));
    }
}

/// A gateway that answers one subscriber with these frames, and says stop.
fn scripted(frames: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let request = hyper::Request::builder()
            .header("sec-websocket-key", key)
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap();
        let (answer, _) = fastwebsockets::upgrade::upgrade(request).unwrap();
        let accept = answer.headers()["sec-websocket-accept"].to_str().unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: fanfare.v1.json\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        let mut send = |opcode: u8, payload: &[u8]| {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            stream.write_all(&[&[0x80 | opcode, 126], &length[..], payload].concat()).unwrap();
        };
        send(1, br#"{"type":"welcome","client":"0-0-1","ping":25,"max_message":65536}"#);
        frames.iter().for_each(|frame| send(1, frame.as_bytes()));
        stream.write_all(&[&[0x88, 9, 0x11, 0x94], &b"the end"[..]].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

const LOGS: &[&str] = &[
    r#"{"type":"subscribed","id":1,"topics":[{"topic":"logs.>","matched":1}]}"#,
    r#"{"type":"topic","topic":"logs.web","epoch":"k3x9","offset":1}"#,
    r#"{"topic":"logs.web","offset":1,"data":"GET / \"200\""}"#,
    r#"{"type":"gap","topic":"logs.web","epoch":"k3x9","from":2,"to":4,"reason":"slow"}"#,
    r#"{"topic":"logs.web","offset":5,"event":"access","data":{"n": 1.10}}"#,
    r#"{"topic":"logs.web","offset":6,"data64":"aGk="}"#,
    r#"{"type":"status","topic":"logs.web","status":"stale","age_ms":5200}"#,
    r#"{"type":"status","topic":"logs.web","status":"live","age_ms":9000}"#,
    r#"{"type":"topic","topic":"logs.web","epoch":"0c7v","offset":0}"#,
];

#[test]
fn of_a_wildcard_each_line_has_its_topic_and_the_rest_goes_to_standard_error() {
    let mut command = fanfare();
    command.args(["subscribe", "--url", &format!("http://{}", scripted(LOGS)), "logs.>"]);
    let done = run(command, "");
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        "logs.web\tGET / \"200\"\nlogs.web\t{\"n\": 1.10}\nlogs.web\thi\n"
    );
    assert_eq!(
        String::from_utf8_lossy(&done.stderr),
        "fanfare: logs.web: messages 2 to 4 are lost (slow)\n\
         fanfare: logs.web: stale, the last message was 5.2 s ago\n\
         fanfare: logs.web: live again\n\
         fanfare: logs.web: begins anew; messages since the last one are not kept any more\n\
         fanfare: closed with 4500 the end\n"
    );
    assert_eq!(done.status.code(), Some(1));
}

#[test]
fn as_json_the_rest_has_a_type_and_messages_are_native() {
    let mut command = fanfare();
    command.args(["subscribe", "--url", &format!("http://{}", scripted(LOGS)), "logs.>", "--json"]);
    let done = run(command, "");
    assert_eq!(
        String::from_utf8_lossy(&done.stdout).lines().collect::<Vec<_>>(),
        [
            r#"{"type":"topic","topic":"logs.web","epoch":"k3x9","offset":1}"#,
            r#"{"topic":"logs.web","offset":1,"data":"GET / \"200\""}"#,
            r#"{"type":"gap","topic":"logs.web","epoch":"k3x9","from":2,"to":4,"reason":"slow"}"#,
            r#"{"topic":"logs.web","offset":5,"event":"access","data":{"n": 1.10}}"#,
            r#"{"topic":"logs.web","offset":6,"data64":"aGk="}"#,
            r#"{"type":"status","topic":"logs.web","status":"stale","age_ms":5200}"#,
            r#"{"type":"status","topic":"logs.web","status":"live","age_ms":9000}"#,
            r#"{"type":"reset","topic":"logs.web","epoch":"0c7v","offset":0}"#,
        ]
    );
    assert_eq!(String::from_utf8_lossy(&done.stderr), "fanfare: closed with 4500 the end\n");
}

#[test]
fn logs_of_several_programs_come_together_under_a_wildcard() {
    let gateway = Gateway::start(&[]);
    assert!(publish(&gateway, &["logs.web"], "one\n").status.success());
    assert!(publish(&gateway, &["other"], "not this\n").status.success());
    let mut subscriber = Subscriber::start(gateway.address, &["logs.>", "--from", "earliest"]);
    assert_eq!(subscriber.line(), "logs.web\tone");
    // A topic that is born later, a deeper one, and one that is there.
    for (topic, line) in [("logs.db", "two"), ("logs.db.replica", "three"), ("logs.web", "four")] {
        assert!(publish(&gateway, &[topic], line).status.success());
        assert_eq!(subscriber.line(), format!("{topic}\t{line}"));
    }
}

#[test]
fn a_cut_wire_costs_nothing_under_a_wildcard_not_even_a_topic_that_was_born_meanwhile() {
    let gateway = Gateway::start(&[]);
    let wire = Wire::to(gateway.address);
    assert!(publish(&gateway, &["logs.web"], "web 0\n").status.success());
    let mut subscriber = Subscriber::start(wire.address, &["logs.>"]);
    assert_eq!(subscriber.line(), "logs.web\tweb 0");
    for round in 1..=5 {
        wire.cut();
        let newborn = format!("logs.born-{round}");
        let mut expected = Vec::new();
        for topic in ["logs.web", newborn.as_str()] {
            let lines = [1, 2, 3].map(|line| format!("{topic} {round} {line}"));
            assert!(publish(&gateway, &[topic], &lines.join("\n")).status.success());
            expected.extend(lines.map(|line| format!("{topic}\t{line}")));
        }
        let mut printed: Vec<String> = (0..6).map(|_| subscriber.line()).collect();
        // Topics come in any order, the lines of each in theirs: their numbers grow.
        printed.sort();
        expected.sort();
        assert_eq!(printed, expected);
    }
}

#[test]
fn a_wildcard_and_a_name_under_it_print_each_message_once() {
    let gateway = Gateway::start(&[]);
    assert!(publish(&gateway, &["logs.web"], "one\n").status.success());
    let mut subscriber = Subscriber::start(gateway.address, &["logs.web", "logs.*", "--from", "earliest"]);
    assert_eq!(subscriber.line(), "logs.web\tone");
    assert!(publish(&gateway, &["logs.web"], "two\n").status.success());
    assert!(publish(&gateway, &["logs.db"], "three\n").status.success());
    assert_eq!([subscriber.line(), subscriber.line()], ["logs.web\ttwo", "logs.db\tthree"]);
}

#[test]
fn a_topic_that_falls_silent_is_told_to_the_subscriber() {
    let config = ConfigFile::new("[[topics]]\nmatch = \"ticker.*\"\nstale_after = \"1s\"\n");
    let gateway = Gateway::start(&["--config", config.path()]);
    assert!(publish(&gateway, &["ticker.X", "1"], "").status.success());
    let mut subscriber = Subscriber::start(gateway.address, &["ticker.X", "--json"]);
    assert_eq!(subscriber.line(), r#"{"topic":"ticker.X","offset":1,"data":"1"}"#);
    let stale = subscriber.line();
    assert!(
        stale.starts_with(r#"{"type":"status","topic":"ticker.X","status":"stale","age_ms":"#),
        "{stale}"
    );
    assert!(publish(&gateway, &["ticker.X", "2"], "").status.success());
    let next = [subscriber.line(), subscriber.line()];
    assert!(next.iter().any(|line| line.contains(r#""status":"live""#)), "{next:?}");
    assert!(next.contains(&r#"{"topic":"ticker.X","offset":2,"data":"2"}"#.to_owned()), "{next:?}");
}

#[test]
fn a_healthcheck_tells_a_gateway_from_whatever_else_answers() {
    let gateway = Gateway::start(&[]);
    let check = |admin: SocketAddr, healthy: bool, message: &str| {
        let output = fanfare().args(["healthcheck", "--admin", &admin.to_string()]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains(message)), (Some(!healthy as i32), true), "{said}");
    };
    check(gateway.admin, true, "");
    check(SocketAddr::from(([0, 0, 0, 0], gateway.admin.port())), true, "");

    let ill = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ill.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = ill.accept().unwrap();
        // The request is read whole: what is left unread would reset the connection.
        let lines = BufReader::new(&stream).lines();
        assert!(lines.map(Result::unwrap).any(|line| line.is_empty()), "a request has an end");
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    check(address, false, "answers \"HTTP/1.1 503\"");
    answering.join().unwrap();
    check(address, false, "does not answer");
}
