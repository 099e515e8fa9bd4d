//! A flood as the server under it sees it, and what it says of the answers.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not inside a test function, where it is allowed"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use serde_json::Value;

const GOOD: &str = "GET /good HTTP/1.1\r\nhost: x\r\n\r\n";
const BAD: &str = "GET /bad HTTP/1.1\r\nhost: x\r\n\r\n";

fn flood(address: &str, requests: &[u8], flags: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, requests).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-load"));
    command.args(["flood", "--url", &format!("http://{address}"), "--json"]).args(flags).arg(file.path());
    command.output().unwrap()
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Answers good requests with 200, ends the connections of others, and returns how many came of each, once one has asked
/// for the end.
fn server() -> (SocketAddr, JoinHandle<(u64, u64)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let (mut good, mut bad) = (0, 0);
        loop {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut buffer = [0; 256];
                match socket.read(&mut buffer) {
                    Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
                    // Ended with the flood.
                    _ => break,
                }
            }
            match &request[..] {
                b"end\r\n\r\n" => return (good, bad),
                request if request == GOOD.as_bytes() => {
                    good += 1;
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
                request if request == BAD.as_bytes() => bad += 1,
                request => assert!(request.is_empty(), "{}", String::from_utf8_lossy(request)),
            }
        }
    };
    (address, std::thread::spawn(serve))
}

#[test]
fn requests_are_sent_by_turns_and_their_answers_counted() {
    for flags in [&["--duration", "300ms", "--at-a-time", "8"][..], &["--duration", "300ms", "--rate", "500"]]
    {
        let (address, server) = server();
        let output = flood(&address.to_string(), [GOOD, BAD, GOOD].concat().as_bytes(), flags);
        assert!(output.status.success(), "{output:?}");
        let said = said(&output);
        let count = |status: &str| said["answers"][status].as_u64().unwrap_or_default();
        let opened = said["opened"].as_u64().unwrap();
        flood(&address.to_string(), b"end\r\n\r\n", &["--duration", "50ms", "--at-a-time", "1"]);
        let (good, bad) = server.join().unwrap();
        assert!(good > 0 && bad > 0 && (bad * 2).abs_diff(good) <= 2, "{good} good, {bad} bad");
        // The last ones may not have been answered in time.
        assert!(count("200") <= good && count("none") <= bad && good + bad <= opened, "{said}");
        assert!(count("200") + count("none") + 64 >= good + bad, "{said}");
        if flags.contains(&"500") {
            assert!(opened <= 1 + (said["seconds"].as_f64().unwrap() * 500.0) as u64, "{said}");
        }
    }
}

#[test]
fn a_flood_without_an_answer_fails() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = flood(&nobody, GOOD.as_bytes(), &["--duration", "50ms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output)["answers"]["none"].as_u64().unwrap() > 0, "{output:?}");
}

#[test]
fn what_cannot_be_a_flood_is_refused_by_name() {
    let check = |address: &str, requests: &[u8], expect: &str| {
        let output = flood(address, requests, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expect), "{error}");
    };
    check("192.0.2.1:80", GOOD.as_bytes(), "not of this machine");
    check("[2001:db8::1]:80", GOOD.as_bytes(), "not of this machine");
    check("127.0.0.1:80", b"", "no request that ends with an empty line");
    check("127.0.0.1:80", b"GET / HTTP/1.1\r\n", "no request that ends with an empty line");
}
