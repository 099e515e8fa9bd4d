//! The writers: which one is taken, and what neither may do while subscribers come and go.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use socket2::SockRef;
use support::confined::{output_without_io_uring, without_io_uring};
use support::metrics::{metric, until_metric};
use support::peer::{CLOSE, Peer, masked, publish};
use support::{Gateway, fanfare};

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// How many of the two workers write through a ring, after all subscribers of a topic have got a message.
fn rings(gateway: &Gateway) -> f64 {
    let mut peers: Vec<Peer> = (0..16).map(|_| Peer::raw(gateway.address, "a")).collect();
    publish(gateway.address, "a", "text/plain", "x");
    peers.iter_mut().for_each(|peer| assert_eq!(peer.text(), "x"));
    let rings = metric(gateway, r#"fanfare_writers{writer="ring"}"#);
    assert_eq!(metric(gateway, r#"fanfare_writers{writer="inline"}"#), 2.0 - rings);
    assert_eq!(metric(gateway, "fanfare_submissions_total") > 0.0, rings > 0.0);
    rings
}

/// Whether this machine lets us have rings.
fn has_rings() -> bool {
    rings(&Gateway::start(&["--writer", "auto"])) == 2.0
}

#[test]
fn the_inline_writer_is_taken_where_it_is_asked_for() {
    assert_eq!(rings(&Gateway::start(&["--writer", "inline"])), 0.0);
}

#[test]
fn rings_are_taken_where_they_are_asked_for_or_it_does_not_start() {
    if has_rings() {
        assert_eq!(rings(&Gateway::start(&["--writer", "ring"])), 2.0);
        return;
    }
    let output = fanfare().args(["serve", "--writer", "ring"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn without_io_uring_passes_are_written_inline_and_a_ring_is_refused() {
    for (error, reason) in [(EPERM, "io_uring is forbidden here"), (ENOSYS, "this kernel has no io_uring")] {
        let gateway = without_io_uring(error, || Gateway::start(&["--writer", "auto"]));
        assert_eq!(rings(&gateway), 0.0);

        let output = output_without_io_uring(fanfare().args(["serve", "--writer", "ring"]), error);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
        assert!(said.starts_with(&format!("writer: {reason}")), "{said}");

        // On an address that is not ours it ends right after it has said which writer it took.
        let serve = ["serve", "--listen", "192.0.2.1:1", "--insecure", "--writer", "auto"];
        let output = output_without_io_uring(fanfare().args(serve).env("FANFARE_LOG", "info"), error);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(reason), "{said}");
    }
}

/// Each of three publishers has so many topics of its own.
const TOPICS_EACH: usize = 4;
/// How often each client comes.
const LIVES: usize = 100;
/// Between two messages of a topic, so that those who read everything can follow.
const PACE: Duration = Duration::from_millis(10);
const TOPICS: usize = 3 * TOPICS_EACH;

/// Whose message is the last of all.
const OVER: &str = "over";

fn topic(place: usize) -> String {
    format!("churn.{place}")
}

/// A message that is of its topic and no other, in every byte.
fn payload(place: usize, number: u64) -> Value {
    let filler = char::from(b'a' + place as u8).to_string().repeat((number * 37 % 900) as usize);
    json!({ "topic": place, "number": number, "filler": filler })
}

/// Checks that a message is what was published, the next one after `last`.
fn check(place: usize, message: &Value, last: &mut u64) {
    let number = message["number"].as_u64().unwrap_or_else(|| panic!("no message: {message}"));
    assert_eq!(*message, payload(place, number));
    assert!(*last == 0 || number == *last + 1, "{number} after {last} of topic {place}");
    *last = number;
}

/// Reads messages of many topics, all of each from the first on that comes, until `is_enough` or all is over. Returns the
/// last numbers.
fn read_native(peer: &mut Peer, is_enough: impl Fn(&[u64; TOPICS]) -> bool) -> [u64; TOPICS] {
    let mut last = [0; TOPICS];
    while !is_enough(&last) {
        let message = peer.json();
        if message["type"].is_null() {
            let name = message["topic"].as_str().expect("a message names its topic");
            if name == OVER {
                break;
            }
            let place = (0..TOPICS).find(|place| topic(*place) == name).expect("it is one of ours");
            check(place, &message["data"], &mut last[place]);
        }
    }
    last
}

/// One client's life: it comes, reads a while, and leaves somehow.
fn live(address: SocketAddr, random: &mut Rng) {
    let count = random.usize(0..8);
    let mut peer = if random.bool() {
        let place = random.usize(0..TOPICS);
        let mut peer = Peer::websocket(address, &format!("/topics/{}", topic(place)));
        let mut last = 0;
        (0..count).for_each(|_| check(place, &peer.json(), &mut last));
        peer
    } else {
        let names: Vec<String> = (0..TOPICS).map(topic).collect();
        let topics = if random.bool() { json!(["churn.*"]) } else { json!(names) };
        let (mut peer, _) = Peer::native(address);
        peer.say(&json!({"type": "subscribe", "id": 1, "topics": topics}).to_string());
        read_native(&mut peer, |last| last.iter().filter(|number| **number > 0).count() >= count);
        peer
    };
    match random.usize(0..4) {
        // Gone, in the middle of whatever is on its way.
        0 => {}
        1 => SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).expect("TCP has it"),
        2 => peer.end(),
        _ => {
            peer.try_send(masked(CLOSE, &1000_u16.to_be_bytes()));
            assert_eq!(peer.close_code(), Some(1000));
        }
    }
}

/// Publishes to topics of its own until it is `over`. Returns how many messages each has.
fn publish_until(over: &AtomicBool, address: SocketAddr, publisher: usize) -> u64 {
    let mut connection = Peer::connect(address);
    let mut count = 0;
    while !over.load(Relaxed) {
        count += 1;
        for place in publisher * TOPICS_EACH..(publisher + 1) * TOPICS_EACH {
            let (target, body) = (format!("/topics/{}", topic(place)), payload(place, count).to_string());
            let answer = connection.request("POST", &target, &[("content-type", "application/json")], body);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        std::thread::sleep(PACE);
    }
    count
}

/// Clients come and go on both workers, in slots that others had just before, while messages pass.
fn churn(writer: &str) {
    // On a busy machine nobody here is too slow.
    let bounds = ["--outbox-bytes", "16MiB", "--outbox-messages", "100000"];
    let gateway = Gateway::start(&[&["--writer", writer], &bounds[..]].concat());
    let address = gateway.address;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let staying: Vec<_> = (0..4)
            .map(|_| {
                let mut peer = Peer::subscribed(address, &["churn.*", OVER]).0;
                scope.spawn(move || read_native(&mut peer, |_| false))
            })
            .collect();
        let publishers =
            [0, 1, 2].map(|publisher| scope.spawn(move || publish_until(over, address, publisher)));
        let lives = [1, 2, 3, 4, 5, 6].map(|thread| {
            scope.spawn(move || {
                let mut random = Rng::with_seed(seed ^ thread);
                (0..LIVES).for_each(|_| live(address, &mut random));
            })
        });
        // Whoever fails ends the others, too.
        let lived = lives.map(ScopedJoinHandle::join);
        over.store(true, Relaxed);
        let counts = publishers.map(|publisher| publisher.join().expect("all is published"));
        publish(address, OVER, "application/json", "{}");
        assert!(lived.iter().all(Result::is_ok), "some life went wrong");
        for stayed in staying {
            let last = stayed.join().expect("all that was published came");
            assert!(
                (0..TOPICS).all(|place| last[place] == counts[place / TOPICS_EACH]),
                "{last:?} of {counts:?}"
            );
        }
    });
    assert_eq!(metric(&gateway, "fanfare_submissions_total") > 0.0, writer == "ring");
    // Nobody is left behind, nor is a socket of anybody.
    for transport in ["raw", "json"] {
        until_metric(&gateway, &format!("fanfare_connections{{transport=\"{transport}\"}}"), |count| {
            count == 0.0
        });
    }
    until_metric(&gateway, "fanfare_outbox_bytes", |bytes| bytes == 0.0);
}

#[test]
fn who_comes_and_goes_gets_its_own_messages_and_nobody_elses_inline() {
    churn("inline");
}

#[test]
fn who_comes_and_goes_gets_its_own_messages_and_nobody_elses_from_a_ring() {
    if has_rings() {
        churn("ring");
    }
}
