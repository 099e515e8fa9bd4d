//! What the log says, and that nobody waits for its reader.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Map, Value};
use socket2::{Domain, Socket, Type};
use support::metrics::{eventually, metric, until_metric};
use support::peer::{Peer, TEXT, masked, publish, request};
use support::{Gateway, fanfare};

type Line = Map<String, Value>;

/// Ends the gateway, and reads its log to the end: each line as JSON.
fn lines(mut gateway: Gateway, mut log: impl Read) -> Vec<Line> {
    gateway.signal("TERM");
    let mut text = String::new();
    log.read_to_string(&mut text).expect("the log is text");
    assert!(gateway.wait().success());
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    text.lines().map(parse).collect()
}

fn with_message<'a>(lines: &'a [Line], message: &str) -> Vec<&'a Line> {
    lines.iter().filter(|line| line["message"] == message).collect()
}

/// Is refused again and again, `at_once` times between two looks, until a metric has come so far; how often that was.
fn refused_until(gateway: &Gateway, name: &str, value: f64, at_once: u64) -> u64 {
    let mut asker = Peer::connect(gateway.address);
    let mut asked = 0;
    while metric(gateway, name) < value {
        assert!(asked < 20_000, "every line is written");
        for _ in 0..at_once {
            assert_eq!(asker.request("GET", "/nothing", &[], "").status, 404);
        }
        asked += at_once;
    }
    asked
}

/// Checks that subscribers are served, and that a drain comes to its end.
fn serves_and_drains(mut gateway: Gateway) {
    let (mut peer, _) = Peer::subscribed(gateway.address, &["a"]);
    assert_eq!(publish(gateway.address, "a", "text/plain", "x").status, 200);
    assert_eq!(peer.json()["data"], "x");
    gateway.signal("TERM");
    assert_eq!(peer.close_code(), Some(4200));
    assert!(gateway.wait().success());
}

const JSON: [&str; 6] = ["--log-format", "json", "--drain-grace", "1ms", "--drain-window", "1ms"];

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let flags =
        ["--log-lines", "8", "--log-rate", "1000000", "--drain-grace", "1ms", "--drain-window", "1ms"];
    let (gateway, log) = Gateway::start_logging(&flags);
    // The pipe takes some hundred lines, and the queue eight.
    refused_until(&gateway, "fanfare_log_dropped_total", 100.0, 100);
    serves_and_drains(gateway);
    drop(log);
}

/// Starts the program with an output that nobody reads.
fn start_unheard(args: &[&str]) -> Child {
    let (reader, output) = std::io::pipe().expect("there are pipes");
    drop(reader);
    let mut command = fanfare();
    command.args(args).env("FANFARE_LOG", "info").stdout(output).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// Ends it, and checks that it drained.
fn drains(mut process: Child) {
    let kill = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let mut log = String::new();
    process.stderr.take().expect("its log is a pipe").read_to_string(&mut log).expect("the log is text");
    assert!(process.wait().expect("it is our child").success(), "{log}");
}

const QUICKLY: [&str; 4] = ["--drain-grace", "1ms", "--drain-window", "1ms"];

#[test]
fn a_gateway_whose_output_is_closed_serves_all_the_same() {
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut process = start_unheard(&[&args[..], &QUICKLY].concat());
    let mut log = BufReader::new(process.stderr.take().expect("its log is a pipe"));
    let mut line = String::new();
    while !line.contains(" serving ") {
        line.clear();
        assert!(log.read_line(&mut line).expect("the log is text") > 0, "it ended at once");
    }
    process.stderr = Some(log.into_inner());
    drains(process);
}

#[test]
fn a_demo_whose_output_is_closed_goes_on() {
    // Bound but not listening, this keeps a port for it.
    let place = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    place.set_reuse_address(true).expect("TCP has it");
    place.set_reuse_port(true).expect("Linux has it");
    place.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("there are ports");
    let address = place.local_addr().expect("it is bound").as_socket().expect("it is of IPv4");
    let args = ["demo", "--listen", &address.to_string(), "--admin", "127.0.0.1:0"];
    let mut process = start_unheard(&[&args[..], &QUICKLY].concat());
    // Prices come once it has said where it is.
    let has_prices = || {
        assert!(process.try_wait().expect("it is our child").is_none(), "it ended at once");
        TcpStream::connect(address).is_ok()
            && request(address, "GET", "/topics/ticker.BTC-USD", &[], "").status == 200
    };
    eventually(has_prices, "its market is live");
    drains(process);
}

#[test]
fn an_error_of_the_command_line_needs_no_reader() {
    let (reader, output) = std::io::pipe().expect("there are pipes");
    drop(reader);
    let status = fanfare().args(["check-config", "--workers", "none"]).stderr(output).status();
    assert_eq!(status.expect("the program starts").code(), Some(2));
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let full = std::fs::File::create("/dev/full").expect("Linux has it");
    let gateway = Gateway::start_logging_to(full, &["--drain-grace", "1ms", "--drain-window", "1ms"]);
    assert_eq!(request(gateway.address, "GET", "/nothing", &[], "").status, 404);
    // One for the start, and one for the refusal.
    until_metric(&gateway, "fanfare_log_dropped_total", |lines| lines >= 2.0);
    serves_and_drains(gateway);
}

#[test]
fn a_refusal_is_one_line_without_anything_secret() {
    let (gateway, log) = Gateway::start_logging(&JSON);
    let secret = [
        ("authorization", "Bearer SECRET"),
        ("sec-websocket-protocol", "fanfare.bearer.SECRET"),
        ("user-agent", "SECRET \"x\"\u{e9}"),
        ("origin", "http://SECRET"),
        ("cookie", "SECRET"),
    ];
    let long = format!("/{}", "x".repeat(8000));
    let paths = [
        "/nothing?access_token=SECRET",
        "/topics/a%0d%0aforged?access_token=SECRET",
        "/topics/%1b[31m",
        "/topics/a..b",
        "/\u{202e}\"quoted\"",
        &long,
    ];
    for path in paths {
        let answer = request(gateway.address, "GET", path, &secret, "");
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        let id = answer.header("x-request-id").unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(id.len(), 16, "{id}");
    }
    // A name that is none, a close reason with a line in it, and text that is none.
    let mut peer = Peer::connect(gateway.address).upgraded("/ws?access_token=SECRET");
    peer.say("{\"type\":\"subscribe\",\"topics\":[\"a\\n{}\"]}");
    peer.send(masked(TEXT, b"\xff\n{\"level\":\"forged\"}"));
    assert_eq!(peer.close_code(), Some(1007));
    until_metric(&gateway, "fanfare_closes_total{reason=\"bad_utf8\"}", |count| count == 1.0);

    let lines = lines(gateway, log);
    for line in &lines {
        let text = serde_json::to_string(line).unwrap();
        assert!(!text.contains("SECRET"), "{text}");
        assert!(["INFO", "WARN", "ERROR"].map(Value::from).contains(&line["level"]), "{text}");
        for field in line.values().filter_map(Value::as_str) {
            assert!(field.len() <= 256 + 3 && !field.contains(|char: char| char.is_control()), "{field:?}");
        }
    }
    let refused = with_message(&lines, "refused");
    let said: Vec<_> = refused.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(said.len(), paths.len(), "{said:?}");
    assert_eq!(&said[..2], ["/nothing", "/topics/a%0d%0aforged"]);
    assert_eq!(said[5], format!("/{}...", "x".repeat(255)));
    let first = refused[0];
    assert_eq!(
        (&first["method"], &first["status"], &first["code"]),
        (&"GET".into(), &404.into(), &"not_found".into())
    );
    assert_eq!((&first["address"], &first["level"]), (&"127.0.0.1".into(), &"INFO".into()));
    let closed = with_message(&lines, "closed");
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!((&closed[0]["reason"], &closed[0]["code"]), (&"bad_utf8".into(), &1007.into()));
}

#[test]
fn a_request_keeps_its_name() {
    let (gateway, log) = Gateway::start_logging(&JSON);
    let ask = |method: &str, target: &str, id: Option<&str>| {
        let headers: Vec<_> = id.into_iter().map(|id| ("x-request-id", id)).collect();
        let answer = request(gateway.address, method, target, &headers, "x");
        (answer.status, answer.header("x-request-id").map(str::to_owned))
    };
    assert_eq!(ask("POST", "/topics/a", None), (200, None));
    assert_eq!(ask("POST", "/topics/a", Some("publish-1")), (200, Some("publish-1".into())));
    assert_eq!(ask("GET", "/topics/a", Some("read.1")), (200, Some("read.1".into())));
    assert_eq!(ask("POST", "/topics/a..b", Some("refused_1")), (400, Some("refused_1".into())));
    assert_eq!(ask("GET", "/ws", Some("handshake-1")), (426, Some("handshake-1".into())));
    // A name that could be taken for something else is replaced, not repeated.
    let (status, drawn) = ask("GET", "/nothing", Some("a b;c"));
    assert_eq!((status, drawn.as_ref().map(String::len)), (404, Some(16)));
    assert_eq!(ask("GET", "/nothing", Some(&"x".repeat(65))).1.map(|id| id.len()), Some(16));

    let lines = lines(gateway, log);
    let refused = with_message(&lines, "refused");
    let names: Vec<_> = refused.iter().map(|line| line["request"].as_str().unwrap()).collect();
    assert_eq!((names.len(), &names[..2]), (4, &["refused_1", "handshake-1"][..]), "{names:?}");
    assert_eq!(drawn.as_deref(), Some(names[2]));
}

#[test]
fn what_clients_cause_is_limited_and_the_rest_is_counted() {
    let (gateway, log) = Gateway::start_logging(&[&JSON[..], &["--log-rate", "3"]].concat());
    let asked = refused_until(&gateway, "fanfare_log_suppressed_total", 20.0, 10);
    let suppressed = metric(&gateway, "fanfare_log_suppressed_total") as u64;
    assert_eq!(metric(&gateway, "fanfare_log_dropped_total"), 0.0);
    let lines = lines(gateway, log);
    let refused = with_message(&lines, "refused");
    assert_eq!(refused.len() as u64 + suppressed, asked, "each is written or counted");
    let told: u64 = refused.iter().filter_map(|line| line.get("suppressed")?.as_u64()).sum();
    assert!(told <= suppressed, "{told} of {suppressed}");
}

#[test]
fn text_is_the_default_and_has_no_colours_for_a_pipe() {
    let (mut gateway, mut log) = Gateway::start_logging(&["--drain-grace", "1ms", "--drain-window", "1ms"]);
    assert_eq!(request(gateway.address, "GET", "/nothing", &[], "").status, 404);
    gateway.signal("TERM");
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(gateway.wait().success());
    assert!(!text.contains('\x1b'), "{text:?}");
    let refused: Vec<_> = text.lines().filter(|line| line.contains("refused")).collect();
    assert_eq!(refused.len(), 1, "{text}");
    for part in ["INFO", "path=/nothing", "status=404", "code=\"not_found\"", "address=127.0.0.1"] {
        assert!(refused[0].contains(part), "{part}: {}", refused[0]);
    }
    assert!(text.lines().last().unwrap().contains("drained"), "what waited is written: {text}");
}
