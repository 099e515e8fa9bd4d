//! How much one client may have, and what it is told when it wants more. The others notice nothing.

mod support;

use std::io::Read;
use std::process::Command;

use serde_json::json;
use support::Gateway;
use support::metrics::{eventually, metric, open_files, resident_bytes, until_metric};
use support::peer::{Answer, BINARY, HANDSHAKE, PING, PONG, Peer, TEXT, masked, request_text};
use support::stream::Stream;

/// Far more than any burst here: what has a bound is refused by then, on the slowest machine, too.
const MANY: usize = 200;

fn refusals(gateway: &Gateway, limit: &str) -> f64 {
    metric(gateway, &format!("fanfare_refusals_total{{limit=\"{limit}\"}}"))
}

/// A gateway whose connections all come from a proxy that says so in the PROXY protocol.
fn behind_a_balancer(args: &[&str]) -> Gateway {
    Gateway::start(&[&["--trusted-proxies", "127.0.0.1", "--proxy-protocol"], args].concat())
}

/// A gateway whose requests all come from a proxy that says so in a header.
fn behind_a_proxy(args: &[&str]) -> Gateway {
    Gateway::start(&[&["--trusted-proxies", "127.0.0.1"], args].concat())
}

/// A connection from an address, through the balancer.
fn from(gateway: &Gateway, address: &str) -> Peer {
    let mut peer = Peer::connect(gateway.address);
    let (family, to) = if address.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    peer.try_send(format!("PROXY {family} {address} {to} 51234 443\r\n"));
    peer
}

/// A request of an address, through the proxy. The connection is what is left of it.
fn forwarded(gateway: &Gateway, address: &str, method: &str, target: &str, body: &str) -> Answer {
    let headers = [("x-forwarded-for", address), ("content-type", "text/plain")];
    Peer::connect(gateway.address).request(method, target, &headers, body)
}

/// A raw WebSocket of an address, through the proxy, or the answer in its place.
fn forwarded_websocket(gateway: &Gateway, address: &str) -> Result<Peer, Answer> {
    let mut peer = Peer::connect(gateway.address);
    peer.send(format!("GET /topics/a?from=live HTTP/1.1\r\n{HANDSHAKE}x-forwarded-for: {address}\r\n\r\n"));
    let answer = peer.answer();
    if answer.status == 101 { Ok(peer.listening()) } else { Err(answer) }
}

/// Checks that somebody was told no.
fn check_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &*answer.error_code()), (status, code), "{answer:?}");
    answer.assert_retry_after();
}

#[test]
fn an_address_has_so_many_connections() {
    let gateway = behind_a_balancer(&["--address-connections", "2"]);
    let mut inside: Vec<Peer> = (0..2).map(|_| from(&gateway, "192.0.2.7").upgraded("/topics/a")).collect();
    for number in 1..=3 {
        let mut third = from(&gateway, "192.0.2.7");
        check_refused(&third.answer(), 429, "limit");
        third.ended();
        assert_eq!(refusals(&gateway, "address_connections"), f64::from(number));
    }
    let mut neighbour = from(&gateway, "192.0.2.8").upgraded("/topics/a").listening();
    assert_eq!(metric(&gateway, "fanfare_addresses"), 2.0);

    // An idle connection, a request and a subscriber are one each; who leaves makes room.
    inside.pop();
    until_metric(&gateway, r#"fanfare_connections{transport="raw"}"#, |open| open == 2.0);
    let mut publisher = from(&gateway, "192.0.2.7");
    let headers = [("content-type", "text/plain")];
    assert_eq!(publisher.request("POST", "/topics/a", &headers, "hello").status, 200);
    assert_eq!(neighbour.text(), "hello");
    check_refused(&from(&gateway, "192.0.2.7").answer(), 429, "limit");
    drop((publisher, inside, neighbour));
    until_metric(&gateway, "fanfare_addresses", |addresses| addresses == 0.0);

    // Half of an IPv6 address is one client's.
    let six = ["2001:db8::1", "2001:db8::2:3"].map(|address| from(&gateway, address).upgraded("/ws"));
    check_refused(&from(&gateway, "2001:db8::ffff").answer(), 429, "limit");
    let mut other = from(&gateway, "2001:db8:0:1::1");
    assert_eq!(other.request("GET", "/healthz", &[], "").status, 200);
    assert_eq!(metric(&gateway, "fanfare_addresses"), 2.0);
    drop(six);

    // The balancer itself is many.
    let health: Vec<Peer> = (0..5)
        .map(|_| {
            let mut peer = Peer::connect(gateway.address);
            peer.send(b"PROXY UNKNOWN\r\n");
            assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200);
            peer
        })
        .collect();
    assert_eq!(health.len(), 5);
}

#[test]
fn subscribers_that_a_proxy_brings_count_for_their_own_address() {
    let gateway = behind_a_proxy(&["--address-connections", "2"]);
    let mut inside = vec![
        forwarded_websocket(&gateway, "203.0.113.9").unwrap(),
        forwarded_websocket(&gateway, "10.9.9.9, 203.0.113.9").unwrap(),
    ];
    let check = |address: &str, status: u16| {
        let opened = forwarded_websocket(&gateway, address);
        match (status, &opened) {
            (101, Ok(_)) => {}
            (429, Err(answer)) => check_refused(answer, 429, "limit"),
            _ => panic!("{address}: {:?}", opened.err()),
        }
    };
    check("203.0.113.9", 429);
    check("198.51.100.1, 203.0.113.9", 429);
    check("127.0.0.1, 203.0.113.9", 429);
    check("[::ffff:203.0.113.9]:1234", 429);
    check("203.0.113.10", 101);
    for headers in [&[("accept", "text/event-stream")][..], &[]] {
        let headers = [headers, &[("x-forwarded-for", "203.0.113.9")]].concat();
        let target = if headers.len() == 2 { "/topics/a" } else { "/events?topic=a" };
        check_refused(&Peer::connect(gateway.address).request("GET", target, &headers, ""), 429, "limit");
    }
    assert_eq!(refusals(&gateway, "address_connections"), 6.0);

    // What is answered and over counts for nobody.
    assert_eq!(forwarded(&gateway, "203.0.113.9", "POST", "/topics/a", "hello").status, 200);
    for peer in &mut inside {
        assert_eq!(peer.text(), "hello");
    }
    inside.pop();
    eventually(|| forwarded_websocket(&gateway, "203.0.113.9").is_ok(), "there is room again");
}

#[test]
fn what_is_answered_leaves_no_place_on_the_connection_of_a_proxy() {
    let gateway = behind_a_proxy(&["--address-connections", "1", "--origins", "https://a.example"]);
    let one = ("x-forwarded-for", "203.0.113.9");
    let mut shared = Peer::connect(gateway.address);
    let mut check = |method: &str, target: &str, headers: &[(&str, &str)], status: u16| {
        let answer = shared.request(method, target, &[headers, &[one]].concat(), "");
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert_eq!(metric(&gateway, "fanfare_addresses"), 0.0, "{method} {target}");
    };
    let stream = ("accept", "text/event-stream");
    let page = ("origin", "https://a.example");
    let preflight = [page, ("access-control-request-method", "GET")];
    check("OPTIONS", "/events?topic=a", &preflight, 204);
    check("POST", "/events?topic=a", &[], 405);
    check("GET", "/events", &[], 400);
    check("GET", "/events?topic=a", &[("last-event-id", "no place")], 400);
    check("GET", "/events?topic=a", &[("origin", "https://b.example")], 403);
    check("GET", "/topics/a", &[stream, ("last-event-id", "no place")], 400);
    check("POST", "/topics/a", &[stream, ("content-type", "text/plain")], 200);
    check("GET", "/healthz", &[stream], 200);

    // The next on the connection is somebody else, whose place it becomes.
    let headers = [stream, ("x-forwarded-for", "203.0.113.10")];
    let _other = Stream::on(shared, "/topics/a", &headers);
    assert_eq!(metric(&gateway, "fanfare_addresses"), 1.0);
    check_refused(&forwarded_websocket(&gateway, "203.0.113.10").err().expect("it has one"), 429, "limit");
    assert!(forwarded_websocket(&gateway, "203.0.113.9").is_ok(), "it has none");
}

#[test]
fn polls_that_wait_behind_a_proxy_count_for_their_own_address() {
    let gateway = behind_a_proxy(&["--address-connections", "2"]);
    // Where there is nothing to wait for, nothing is counted.
    let cursor = forwarded(&gateway, "203.0.113.9", "GET", "/poll?topic=a", "").json()["cursor"].to_string();
    let cursor = cursor.trim_matches('"');
    let poll = |address: &str| {
        let mut peer = Peer::connect(gateway.address);
        peer.send(format!(
            "GET /poll?topic=a&cursor={cursor}&wait=30 HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {address}\r\n\r\n"
        ));
        peer
    };
    let mut inside = [poll("203.0.113.9"), poll("203.0.113.9")];
    until_metric(&gateway, "fanfare_waiting_polls", |polls| polls == 2.0);
    check_refused(&poll("203.0.113.9").answer(), 429, "limit");
    assert!(forwarded_websocket(&gateway, "203.0.113.9").is_err(), "a poll is one like a subscriber");
    let mut other = poll("203.0.113.10");
    until_metric(&gateway, "fanfare_waiting_polls", |polls| polls == 3.0);
    assert_eq!(refusals(&gateway, "address_connections"), 2.0);

    // Answered, they make room.
    assert_eq!(forwarded(&gateway, "203.0.113.9", "POST", "/topics/a", "hello").status, 200);
    for peer in inside.iter_mut().chain([&mut other]) {
        assert_eq!(peer.answer().status, 200);
    }
    until_metric(&gateway, "fanfare_addresses", |addresses| addresses == 0.0);
    assert!(forwarded_websocket(&gateway, "203.0.113.9").is_ok());
}

#[test]
fn who_is_not_trusted_cannot_choose_an_address() {
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.2", "--address-connections", "1"]);
    let peers: Vec<Peer> =
        (0..5).map(|_| forwarded_websocket(&gateway, "203.0.113.9").expect("it is not believed")).collect();
    assert_eq!(metric(&gateway, "fanfare_addresses"), 0.0);
    drop(peers);
}

#[test]
fn an_address_connects_so_often() {
    let gateway = behind_a_balancer(&["--address-handshakes-per-second", "1 burst 5"]);
    let mut witness = from(&gateway, "192.0.2.8").upgraded("/topics/a").listening();
    let mut taken = 0;
    let refused = (0..MANY).find_map(|_| {
        let mut peer = from(&gateway, "192.0.2.7");
        peer.try_send(request_text("GET", "/healthz", &[], ""));
        let answer = peer.answer();
        taken += usize::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    check_refused(&refused.expect("its burst ends"), 429, "rate_limited");
    assert!(taken >= 5, "{taken}");
    assert!(refusals(&gateway, "address_handshakes_per_second") >= 1.0);
    let mut other = from(&gateway, "192.0.2.9");
    let answer = other.request("POST", "/topics/a", &[("content-type", "text/plain")], "hello");
    assert_eq!((answer.status, witness.text().as_str()), (200, "hello"));
}

#[test]
fn a_crowd_comes_in_by_and_by_and_nobody_inside_notices() {
    let gateway = Gateway::start(&["--handshakes-per-second", "20 burst 30"]);
    let mut inside = Peer::raw(gateway.address, "a");
    let mut publisher = Peer::connect(gateway.address);
    let mut publish = |text: &str| {
        let answer = publisher.request("POST", "/topics/a", &[("content-type", "text/plain")], text);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    publish("before");
    let mut crowd: Vec<Peer> = Vec::new();
    let mut refused = 0;
    for number in 0..MANY {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(format!("GET /topics/a?from=live HTTP/1.1\r\n{HANDSHAKE}\r\n"));
        // The reset that meets a request under way may overtake the answer.
        match peer.try_answer() {
            Some(answer) if answer.status == 101 => crowd.push(peer),
            Some(answer) => {
                check_refused(&answer, 503, "rate_limited");
                refused += 1;
            }
            None => refused += 1,
        }
        if number % 50 == 0 {
            publish(&number.to_string());
        }
    }
    assert!(refused > 0 && crowd.len() >= 30, "{refused} of {MANY} refused");
    assert_eq!(refusals(&gateway, "handshakes_per_second"), f64::from(refused));
    for expect in ["before", "0", "50", "100", "150"] {
        assert_eq!(inside.text(), expect);
    }
    // Whoever comes back gets in.
    let gets_in = || {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(request_text("GET", "/healthz", &[], ""));
        peer.try_answer().is_some_and(|answer| answer.status == 200)
    };
    eventually(gets_in, "the crowd is over");
}

#[test]
fn a_websocket_sends_so_many_frames() {
    let gateway = Gateway::start(&["--commands-per-second", "10 burst 50", "--ping-interval", "1h"]);
    let mut witness = Peer::raw(gateway.address, "witness");
    let floods: [(&str, &str, Vec<u8>); 7] = [
        ("pings", "/topics/a", masked(PING, b"x")),
        ("pings on /ws", "/ws", masked(PING, b"")),
        ("pongs", "/topics/a", masked(PONG, b"")),
        ("publishes", "/topics/a", masked(TEXT, b"x")),
        ("binary publishes", "/topics/a", masked(BINARY, b"x")),
        ("subscribes", "/ws", masked(TEXT, br#"{"type":"subscribe","topics":["a"]}"#)),
        ("nonsense", "/ws", masked(TEXT, b"x")),
    ];
    for (number, (name, target, frame)) in (1..).zip(floods) {
        let mut peer = Peer::websocket(gateway.address, target);
        // A burst is fine. One place is left for the frame that asks whether it was, and one for the answer to a ping: the
        // first ones come soon, whatever the interval.
        peer.send(frame.repeat(48));
        peer.send(masked(PING, b"still here"));
        loop {
            let frame = peer.frame();
            if (frame.first, &*frame.payload) == (PONG, b"still here") {
                break;
            }
        }
        peer.try_send(frame.repeat(MANY * 10));
        assert_eq!(peer.close_code(), Some(4102), "{name}");
        until_metric(&gateway, r#"fanfare_closes_total{reason="rate_limited"}"#, |count| {
            count == f64::from(number)
        });
        let answer = support::peer::publish(gateway.address, "witness", "text/plain", name);
        assert_eq!((answer.status, witness.text().as_str()), (200, name));
    }
    assert_eq!(refusals(&gateway, "commands_per_second"), 7.0);
    assert!(metric(&gateway, "fanfare_messages_total") < 1000.0, "the flood was let in");
}

#[test]
fn a_command_costs_what_it_matches() {
    let gateway = Gateway::start(&["--commands-per-second", "1 burst 50", "--ping-interval", "1h"]);
    let items: String =
        (0..2000).map(|number| format!("{{\"topic\":\"t.{number}\",\"data\":1}}\n")).collect();
    let headers = [("content-type", "application/x-ndjson")];
    assert_eq!(support::peer::request(gateway.address, "POST", "/publish", &headers, items).status, 200);
    let mut witness = Peer::subscribed(gateway.address, &["a"]).0;
    let mut peer = Peer::native(gateway.address).0;
    // One that matches little is one of fifty; one of 2,000 topics is 21 of them, and its end as many.
    for _ in 0..4 {
        assert_eq!(peer.subscribe(&["a.*"])["topics"][0]["matched"], 0);
    }
    let commands: Vec<u8> = ["subscribe", "unsubscribe"]
        .map(|command| masked(TEXT, json!({"type": command, "topics": ["t.*"]}).to_string().as_bytes()))
        .concat();
    peer.try_send(commands.repeat(3));
    assert_eq!(peer.close_code(), Some(4102));
    assert_eq!(refusals(&gateway, "commands_per_second"), 1.0);
    assert_eq!(support::peer::publish(gateway.address, "a", "text/plain", "x").status, 200);
    assert_eq!(witness.json()["data"], "x");
}

#[test]
fn a_publisher_sends_so_many_messages() {
    let gateway = behind_a_proxy(&["--publishes-per-second", "1 burst 5"]);
    let publish = |address: &str| forwarded(&gateway, address, "POST", "/topics/a", "x");
    let until_refused = |address: &str| {
        let refused = (0..MANY).map(|_| publish(address)).find(|answer| answer.status != 200);
        check_refused(&refused.expect("its burst ends"), 429, "rate_limited");
    };
    until_refused("203.0.113.9");
    assert!(metric(&gateway, "fanfare_messages_total") >= 5.0);
    assert_eq!(publish("203.0.113.10").status, 200, "another has its own");
    assert_eq!(publish("127.0.0.1").status, 200);

    // Many at once are taken whole, and paid for.
    let lines = "x\n".repeat(1000);
    let answer = forwarded(&gateway, "203.0.113.11", "POST", "/topics/a?split=lines", &lines);
    assert_eq!(answer.json()["count"], 1000, "{answer:?}");
    for target in ["/topics/b", "/topics/b?split=lines", "/publish"] {
        let mut peer = Peer::connect(gateway.address);
        // The body is not waited for.
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.11\r\ncontent-length: 9\r\n\r\n"
        );
        peer.send(head);
        check_refused(&peer.answer(), 429, "rate_limited");
    }

    // Over WebSockets: in words where there are some, else with a code.
    let mut raw = forwarded_websocket(&gateway, "203.0.113.12").unwrap();
    raw.try_send(masked(TEXT, b"x").repeat(MANY));
    assert_eq!(raw.close_code(), Some(4102));
    let mut native = Peer::connect(gateway.address);
    native.send(format!("GET /ws HTTP/1.1\r\n{HANDSHAKE}x-forwarded-for: 203.0.113.12\r\n\r\n"));
    assert_eq!(native.answer().status, 101);
    let (mut native, _) = native.welcomed();
    for id in 0..MANY {
        native.say(&json!({"type": "publish", "id": id, "topic": "b", "data": 1}).to_string());
        let answer = native.json();
        if answer["type"] == "error" {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
            break;
        }
        assert!(id + 1 < MANY, "{answer}");
    }
    assert!(native.fence().is_empty(), "it stays");
    assert_eq!(refusals(&gateway, "publishes_per_second"), 6.0);
}

#[test]
fn a_reader_goes_through_so_many_topics() {
    let gateway = behind_a_proxy(&["--reads-per-second", "1 burst 40", "--wildcard-topics", "2500"]);
    let items: String =
        (0..2000).map(|number| format!("{{\"topic\":\"t.{number}\",\"data\":1}}\n")).collect();
    let headers = [("content-type", "application/x-ndjson")];
    assert_eq!(support::peer::request(gateway.address, "POST", "/publish", &headers, items).status, 200);
    let mut witness = Peer::raw(gateway.address, "witness");
    // Little is one of forty, and 2,000 topics are 21 of them; a page of 1,000 is 11.
    let reads = [
        ("/poll?topic=none.*", "203.0.113.5", MANY, 30),
        ("/topics?match=none.*", "203.0.113.6", MANY, 30),
        ("/poll?topic=t.*", "203.0.113.7", 16, 1),
        ("/topics?max=1000", "203.0.113.8", 16, 1),
    ];
    for (number, (target, address, count, least)) in (1..).zip(reads) {
        // All of them together, as one connection may send them.
        let mut peer = Peer::connect(gateway.address);
        peer.send(request_text("GET", target, &[("x-forwarded-for", address)], "").repeat(count));
        let answers: Vec<Answer> = (0..count).map(|_| peer.answer()).collect();
        let served = answers.iter().position(|answer| answer.status != 200).expect("its burst ends");
        assert!(served >= least, "{target}: {served}");
        check_refused(&answers[served], 429, "rate_limited");
        assert!(refusals(&gateway, "reads_per_second") >= f64::from(number));
        let answer = support::peer::publish(gateway.address, "witness", "text/plain", target);
        assert_eq!((answer.status, witness.text().as_str()), (200, target));
    }
    // One topic is no walk, neither is another reader held up, and this machine has no bound.
    let get = |address: &str, target: &str| forwarded(&gateway, address, "GET", target, "").status;
    for target in ["/poll?topic=t.1", "/topics/t.1", "/topics/t.1/info"] {
        assert_eq!(get("203.0.113.7", target), 200, "{target}");
    }
    assert_eq!(get("203.0.113.7", "/poll?topic=t.*"), 429);
    assert_eq!(get("203.0.113.9", "/poll?topic=t.*"), 200);
    for _ in 0..MANY {
        assert_eq!(get("127.0.0.1", "/topics?max=1000"), 200);
    }
    // What matches more than it may has been gone through, too.
    let more: String = (0..600).map(|number| format!("{{\"topic\":\"u.{number}\",\"data\":1}}\n")).collect();
    assert_eq!(support::peer::request(gateway.address, "POST", "/publish", &headers, more).status, 200);
    let statuses = [(); 4].map(|()| get("203.0.113.10", "/poll?topic=%3E"));
    assert_eq!((statuses[0], statuses[3]), (400, 429));
}

#[test]
fn a_topic_takes_so_many_messages() {
    let gateway = Gateway::start(&["--topic-publishes-per-second", "1 burst 5"]);
    let publish = |topic: &str| support::peer::publish(gateway.address, topic, "text/plain", "x");
    let refused = (0..MANY).map(|_| publish("a")).find(|answer| answer.status != 200);
    check_refused(&refused.expect("its burst ends"), 429, "rate_limited");
    assert_eq!(publish("b").status, 200);

    let items: String = (0..MANY)
        .map(|number| format!("{{\"topic\":\"{}\",\"data\":1}}\n", if number == 9 { "d" } else { "c" }))
        .collect();
    let headers = [("content-type", "application/x-ndjson")];
    let answer = support::peer::request(gateway.address, "POST", "/publish", &headers, items).json();
    assert_eq!(answer["errors"], true);
    assert_eq!(answer["results"][0]["topic"], "c");
    assert_eq!(answer["results"][9]["offset"], 1, "the other topic's is taken");
    assert_eq!(answer["results"][MANY - 1]["error"]["code"], "rate_limited");
    assert_eq!(publish("b").status, 200);
}

#[test]
fn who_says_nothing_or_little_is_given_up() {
    let gateway = Gateway::start(&[
        "--first-request-timeout",
        "300ms",
        "--header-timeout",
        "400ms",
        "--body-timeout",
        "400ms",
    ]);
    let mut witness = Peer::raw(gateway.address, "witness");
    let starts: [(&str, &str, u16); 3] = [
        ("", "first_request_timeout", 408),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\na: ", "header_timeout", 408),
        ("POST /topics/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc", "", 408),
    ];
    for (start, limit, status) in starts {
        let mut crowd: Vec<Peer> = (0..50)
            .map(|_| {
                let mut peer = Peer::connect(gateway.address);
                peer.send(start);
                peer
            })
            .collect();
        let answer = support::peer::publish(gateway.address, "witness", "text/plain", start);
        assert_eq!((answer.status, witness.text().as_str()), (200, start));
        for peer in &mut crowd {
            assert_eq!(peer.try_answer().map(|answer| answer.status), Some(status), "{start}");
            peer.ended();
        }
        if !limit.is_empty() {
            assert_eq!(refusals(&gateway, limit), 50.0);
        }
    }
    until_metric(&gateway, r#"fanfare_connections{transport="http"}"#, |open| open == 0.0);

    // Between two requests, nobody is refused: the connection ends, and nothing is said that the next one could be taken to be
    // answered with.
    let mut idle = Peer::connect(gateway.address);
    assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
    assert_eq!(idle.next_byte(), None);
    assert_eq!(refusals(&gateway, "header_timeout"), 50.0);
}

#[test]
fn who_sends_a_header_that_is_too_long_to_its_end_still_reads_why() {
    let gateway = Gateway::start(&[]);
    let long = format!("a: {}\r\n", "b".repeat(4 << 20));
    let many = "a: b\r\n".repeat(100_000);
    for (headers, status, refused) in [(&*long, "431", 1.0), (&*many, "431", 2.0), ("a : b\r\n", "400", 2.0)]
    {
        let mut peer = Peer::connect(gateway.address);
        peer.send(format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{headers}\r\n{}", "x".repeat(1 << 20)));
        peer.end();
        let mut answer = String::new();
        peer.stream.read_to_string(&mut answer).expect("its connection is not reset");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(refusals(&gateway, "header_bytes"), refused);
    }
}

#[test]
fn out_of_file_descriptors_newcomers_are_told_so() {
    let gateway = Gateway::start(&["--header-timeout", "10m", "--ping-interval", "1h"]);
    let mut witness = Peer::raw(gateway.address, "witness");
    let mut publisher = Peer::connect(gateway.address);
    let mut publish = |text: &str| {
        let headers = [("content-type", "text/plain")];
        assert_eq!(publisher.request("POST", "/topics/witness", &headers, text).status, 200);
    };
    publish("before");
    let open = open_files(&gateway);
    let limit = format!("--nofile={0}:{0}", open + 8);
    match Command::new("prlimit").args(["--pid", &gateway.pid().to_string(), &limit]).status() {
        Ok(status) => assert!(status.success(), "the limit cannot be set"),
        Err(error) if std::env::var_os("CI").is_some() => panic!("prlimit does not run: {error}"),
        Err(error) => return eprintln!("not tried, prlimit does not run: {error}"),
    }
    let mut inside: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = Peer::connect(gateway.address);
            assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200);
            peer
        })
        .collect();
    let mut refused = 0;
    for number in 0..20 {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(request_text("GET", "/healthz", &[], ""));
        match peer.try_answer() {
            // What one worker has in reserve, another may give to a newcomer.
            Some(answer) if answer.status == 200 => inside.push(peer),
            Some(answer) => {
                check_refused(&answer, 503, "limit");
                assert!(answer.text().contains("file descriptors"), "{answer:?}");
                peer.ended();
                refused += 1;
            }
            // The reset that meets a request under way may overtake the answer.
            None => {}
        }
        publish(&number.to_string());
    }
    assert!(refused >= 10, "{refused}");
    assert_eq!(witness.text(), "before");
    (0..20).for_each(|number: i32| assert_eq!(witness.text(), number.to_string()));
    // Some leave: the next is let in without anybody's help.
    inside.truncate(4);
    let gets_in = || {
        let mut peer = Peer::connect(gateway.address);
        peer.try_send(request_text("GET", "/healthz", &[], ""));
        peer.try_answer().is_some_and(|answer| answer.status == 200)
    };
    eventually(gets_in, "there is room again");
    drop(inside);
    eventually(|| open_files(&gateway) <= open, "no file is left open");
    assert!(refusals(&gateway, "files") >= f64::from(refused));
}

#[test]
fn addresses_without_end_fill_no_memory() {
    const ADDRESSES: u32 = 6_000;
    let gateway = behind_a_balancer(&[
        "--rate-entries",
        "1",
        "--address-handshakes-per-second",
        "1 burst 2",
        "--handshakes-per-second",
        "off",
    ]);
    let mut witness = from(&gateway, "192.0.2.8").upgraded("/topics/a").listening();
    let crowd = |first: u32| {
        for number in first..first + ADDRESSES {
            let address = std::net::Ipv4Addr::from_bits(0xc633_0000 + number).to_string();
            let mut peer = from(&gateway, &address);
            assert_eq!(peer.request("GET", "/healthz", &[], "").status, 200);
        }
    };
    crowd(0);
    let before = resident_bytes(&gateway);
    crowd(ADDRESSES);
    until_metric(&gateway, "fanfare_addresses", |addresses| addresses == 1.0);
    assert!(resident_bytes(&gateway) < before + (4 << 20), "something grows with addresses");
    let mut publisher = from(&gateway, "192.0.2.9");
    publisher.request("POST", "/topics/a", &[("content-type", "text/plain")], "hello");
    assert_eq!(witness.text(), "hello");
}
