//! What a delivery, a publish and a whole POST cost in instructions, and that it does not grow with what else there is.
//!
//! Instructions are counted by callgrind, so a busy machine does not matter. Another compiler or processor may: the bounds
//! leave room for that, and not for work that grows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

/// The target directory. `None` without valgrind, which only CI must have.
static TARGET: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if valgrind.is_err() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is missing, and CI must have it");
        eprintln!("skipped: there is no valgrind");
        return None;
    }
    // Cargo makes this one, `tmp` in the target directory, for integration tests.
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(Path::to_owned)
});

/// What deliveries and publishes are counted in, built as what is shipped.
fn scaling() -> Option<PathBuf> {
    built("release", &["--release", "--bin", "scaling"])
}

/// The gateway as tests have it: an optimised one takes minutes to build.
fn gateway() -> Option<PathBuf> {
    built("debug", &["--bin", "fanfare"])
}

fn built(folder: &str, what: &[&str]) -> Option<PathBuf> {
    let target = TARGET.as_ref()?;
    let built = Command::new(env!("CARGO"))
        // Of the whole workspace, as one builds it: less of it would be built anew, with other features.
        .args(["build", "--quiet", "--workspace"])
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(built.expect("cargo can be run").success());
    Some(target.join(folder).join(what[what.len() - 1]))
}

/// Instructions of each of `rounds` rounds.
fn count(what: &str, of: &[usize], rounds: usize) -> Option<f64> {
    let scaling = scaling()?;
    let numbers = of.iter().chain([&rounds]).map(usize::to_string);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=scaling::measured*"])
        .arg(scaling)
        .arg(what)
        .args(numbers)
        .output()
        .expect("valgrind can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    Some(collected(&text) / rounds as f64)
}

/// The instructions of a run, as callgrind says them at its end.
fn collected(text: &str) -> f64 {
    let (_, collected) = text.rsplit_once("Collected : ").expect("callgrind says what it collected");
    let total: f64 =
        collected.split_whitespace().next().and_then(|total| total.parse().ok()).expect("a number");
    assert!(total > 0.0, "nothing was measured");
    total
}

/// Instructions of a gateway's life with `posts` requests, one at a time, each with its answer and its delivery to one
/// raw WebSocket.
fn life(posts: usize) -> Option<f64> {
    let mut gateway = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(gateway()?)
        .args([
            "serve",
            "--workers",
            "1",
            "--writer",
            "inline",
            "--drain-grace",
            "1ms",
            "--drain-window",
            "1ms",
        ])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind can be run");
    let mut line = String::new();
    let mut output = BufReader::new(gateway.stdout.take().expect("it is piped"));
    output.read_line(&mut line).expect("the gateway says where it listens");
    let (_, address) = line.split_once("listening on ").expect("the gateway says where it listens");
    let address = address.split(',').next().expect("a split has a part");
    let connect = || {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("it is not zero");
        stream
    };
    let mut subscriber = connect();
    let handshake = "GET /topics/t HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    subscriber.write_all(handshake.as_bytes()).expect("the gateway reads");
    read_through(&mut subscriber, b"\r\n\r\n");
    let mut publisher = connect();
    let payload = fanfare_benches::json_payload(128);
    let head = "POST /topics/t HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 128\r\n\r\n";
    let request = [head.as_bytes(), &payload].concat();
    for _ in 0..posts {
        publisher.write_all(&request).expect("the gateway reads");
        let answer = read_through(&mut publisher, b"}");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert!(read_through(&mut subscriber, b"}").ends_with(&payload));
    }
    let ended = Command::new("kill").arg(gateway.id().to_string()).status();
    assert!(ended.expect("kill can be run").success());
    let output = gateway.wait_with_output().expect("the gateway ends");
    Some(collected(&String::from_utf8_lossy(&output.stderr)))
}

/// What comes, through the first read that ends so.
fn read_through(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !text.ends_with(end) {
        let count = stream.read(&mut buffer).expect("the gateway answers");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    text
}

/// Instructions of one delivery.
fn delivery(subscribers: usize, topics: usize, patterns: usize) -> Option<f64> {
    Some(count("deliver", &[subscribers, topics, patterns], 10)? / subscribers as f64)
}

/// Instructions of one publish.
fn publish(shards: usize, topics: usize, patterns: usize) -> Option<f64> {
    count("admit", &[shards, topics, patterns], 500)
}

#[test]
fn a_delivery_costs_the_same_beside_many_subscribers_topics_and_patterns() {
    let Some(one) = delivery(1_000, 1, 0) else { return };
    assert!(one < 160.0, "{one} instructions");
    for (subscribers, topics, patterns) in [(10_000, 1, 0), (1_000, 5_000, 0), (1_000, 1, 10_000)] {
        let Some(many) = delivery(subscribers, topics, patterns) else { return };
        assert!(
            many < 1.03 * one,
            "{many} instructions beside {one}: {subscribers} subscribers, {topics} topics, {patterns} patterns"
        );
    }
}

#[test]
fn a_publish_costs_the_same_beside_many_topics_and_patterns() {
    let Some(one) = publish(1, 1, 0) else { return };
    assert!(one < 2_500.0, "{one} instructions");
    for (topics, patterns) in [(5_000, 0), (1, 10_000)] {
        let Some(many) = publish(1, topics, patterns) else { return };
        assert!(many < 1.05 * one, "{many} instructions beside {one}: {topics} topics, {patterns} patterns");
    }
}

#[test]
fn a_further_shard_costs_a_list_and_no_more() {
    let (Some(one), Some(sixteen)) = (publish(1, 1, 0), publish(16, 1, 0)) else { return };
    let each = (sixteen - one) / 15.0;
    assert!(each < 240.0, "{each} instructions for each further shard");
    let Some(watermark) = count("watermark", &[64], 100) else { return };
    assert!(watermark < 450.0, "{watermark} instructions over 64 lanes");
}

#[test]
fn a_post_costs_no_more_than_it_did() {
    let (Some(few), Some(many)) = (life(200), life(1_200)) else { return };
    let one = (many - few) / 1_000.0;
    assert!(one < 145_000.0, "{one} instructions, not optimised");
}
