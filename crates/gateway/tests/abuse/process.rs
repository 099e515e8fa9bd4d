//! What happens to the process: signals at odd times, a pause, a disk that takes nothing.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::metrics::{closes, eventually, metric, until_metric};
use crate::support::peer::{Peer, publish};
use crate::support::{Gateway, PATIENCE, fanfare};
use crate::witnesses::Witnesses;

#[test]
fn a_signal_during_the_start_ends_it_like_one_before_or_one_after() {
    const SIGTERM: i32 = 15;
    for delay in 0..20 {
        let flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain-grace", "1ms"];
        let mut process = fanfare().arg("serve").args(flags).stdout(Stdio::null()).spawn().unwrap();
        // The start takes some milliseconds: some of these are before its handler is there, and some behind.
        std::thread::sleep(Duration::from_millis(delay));
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match process.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    process.kill().unwrap();
                    panic!("it hangs");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        assert!(status.code() == Some(0) || status.signal() == Some(SIGTERM), "{status}");
    }
}

#[test]
fn who_answered_while_the_process_was_stopped_is_not_closed_for_it() {
    let gateway = Gateway::start(&["--ping-interval", "1s", "--pong-timeout", "500ms"]);
    // Each answers pings as it reads.
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let mut peer = Peer::raw(gateway.address, "a");
            std::thread::spawn(move || while peer.text() != "done" {})
        })
        .collect();
    for _ in 0..2 {
        gateway.signal("STOP");
        // Longer than the ping interval and the pong timeout together: all answers wait in the kernel.
        std::thread::sleep(Duration::from_millis(2_000));
        gateway.signal("CONT");
        // Then everything is due at once, and the pongs are among it.
        publish(gateway.address, "a", "text/plain", "on");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(closes(&gateway, "no_pong"), 0.0);
    publish(gateway.address, "a", "text/plain", "done");
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_disk_that_takes_nothing_is_not_missed() {
    // The whole tree is read-only, /tmp and /dev/shm included. Only root may make it so, for this one process.
    let script = "mount --make-rprivate / && for place in / /tmp /dev/shm; do \
        mount --bind $place $place 2>&- && mount -o remount,bind,ro $place; done; \
        touch /tmp/fanfare-test 2>&- && exit 99; exec \"$@\"";
    let program = fanfare();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(program.get_program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain-grace", "1ms"]);
    command.env("FANFARE_LOG", "warn,fanfare=error").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = match command.spawn() {
        Ok(process) => process,
        Err(error) => return eprintln!("not tried, unshare does not run: {error}"),
    };
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        let mut why = String::new();
        process.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        let status = process.wait().unwrap();
        assert_ne!(status.code(), Some(99), "the tree can be written to");
        return eprintln!("not tried, the tree cannot be made read-only here: {status}: {why}");
    }
    let address = line.split(" on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let address = address.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    let (mut peer, _) = Peer::subscribed(address, &["a"]);
    publish(address, "a", "text/plain", "x");
    assert_eq!(peer.json()["data"], "x");
    drop(peer);
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_gateway_that_is_short_of_processor_time_serves_all_the_same() {
    let gateway = Gateway::start(&[]);
    let mut witnesses = Witnesses::new(&gateway);
    let pid = gateway.pid().to_string();
    let stopper = std::thread::spawn(move || {
        for _ in 0..20 {
            for (signal, milliseconds) in [("-STOP", 20), ("-CONT", 5)] {
                if !Command::new("kill").args([signal, &pid]).status().unwrap().success() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
        }
    });
    for _ in 0..20 {
        witnesses.are_served("a pause");
    }
    stopper.join().unwrap();
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
    eventually(|| metric(&gateway, "fanfare_inbox_messages") == 0.0, "nothing is left under way");
    assert_eq!(closes(&gateway, "slow_consumer") + closes(&gateway, "no_pong"), 0.0);
}

#[test]
fn a_gateway_serves_where_there_is_no_other_address_than_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("not tried, there is no IPv6 here");
    }
    let flags = ["serve", "--listen", "[::1]:0", "--admin", "[::1]:0", "--drain-grace", "1ms"];
    let mut process = fanfare().args(flags).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split(" on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let address = address.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    let (mut peer, _) = Peer::subscribed(address, &["a"]);
    publish(address, "a", "text/plain", "x");
    assert_eq!(peer.json()["data"], "x");
    process.kill().unwrap();
    process.wait().unwrap();
}
