//! `fanfare publish` and `fanfare subscribe`, as typed in a shell.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use support::metrics::until_metric;
use support::wire::Wire;
use support::{Gateway, fanfare};

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
