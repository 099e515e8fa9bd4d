//! What an idle subscriber costs the gateway, in bytes of the heap that are in use.
//!
//! The gateway runs in this process, beside clients that own nothing but their sockets. Counting bytes rather than resident
//! pages makes the figure the same on every run: what an allocator adds is in docs/PERFORMANCE.md.
#![expect(unsafe_code, reason = "a counting allocator is an unsafe trait")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fanfare_gateway::config::Config;
use fanfare_gateway::server::Server;
use support::PATIENCE;
use support::metrics::eventually;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that were asked for and not given back, of all threads.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returns; counting touches no
// memory but a static number. `alloc_zeroed` and `realloc` are made of these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What an idle subscriber may cost: the tables it stands in have room for others, too.
const EACH_MAX: usize = 900;

/// What tables keep of a subscriber that has gone: its slot.
const KEPT_MAX: usize = 256;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn an_idle_subscriber_costs_at_most_900_bytes() {
    // Both ends of each connection are files of this process.
    let files = rlimit::increase_nofile_limit(5_000).unwrap_or(1024);
    let count = 2_000.min(files.saturating_sub(200) / 2) as usize;
    // No pings: what a client's own ping leaves behind is not to be tidied up by one of the server's.
    let settings = [
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("workers", "1"),
        ("ping_interval", "1h"),
        ("drain_grace", "1ms"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let server =
        Server::bind(Config::load(None, &settings).expect("it is valid"), None).expect("ports are free");
    let address = server.address;
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let serving = std::thread::spawn(move || server.serve(|stop| ready.send(stop).expect("it is awaited")));
    let stop = is_ready.recv_timeout(PATIENCE).expect("the server starts");

    // What the worker has for itself is there when it answers.
    drop(ask(address, "/healthz", "Connection: close", "ok\n"));
    let mut kept = 0;
    let kinds: [(&str, Connect); 3] = [("raw", raw), ("/ws", native), ("event stream", event_stream)];
    // The second time around, nothing is to be kept but what the first left behind.
    for (round, (name, connect)) in kinds.iter().chain(&kinds).enumerate() {
        let before = IN_USE.load(Relaxed);
        let crowd: Vec<_> = (0..count).map(|_| connect(address)).collect();
        let limit = before + count * EACH_MAX;
        eventually(|| IN_USE.load(Relaxed) < limit, &format!("{count} idle subscribers of {name} are small"));
        drop(crowd);
        let limit = if round < kinds.len() { before + count * KEPT_MAX } else { kept + 64 * 1024 };
        eventually(|| IN_USE.load(Relaxed) < limit, &format!("nothing is left of the subscribers of {name}"));
        kept = kept.max(IN_USE.load(Relaxed));
    }

    stop.stop();
    serving.join().expect("it does not panic").expect("the drain is whole");
}

/// Makes an idle subscriber.
type Connect = fn(SocketAddr) -> TcpStream;

/// Subscribes, and has a ping answered: that makes the gateway queue something, and write it.
fn raw(address: SocketAddr) -> TcpStream {
    let mut socket = ask(address, "/topics/quiet", UPGRADE, "\r\n\r\n");
    say(&mut socket, 0x89, "");
    hear(&mut socket, "\u{0}");
    socket
}

/// Subscribes by a command, which is acknowledged.
fn native(address: SocketAddr) -> TcpStream {
    let mut socket = ask(address, "/ws", UPGRADE, "welcome");
    say(&mut socket, 0x81, r#"{"type":"subscribe","topics":["quiet"]}"#);
    hear(&mut socket, "subscribed");
    socket
}

fn event_stream(address: SocketAddr) -> TcpStream {
    ask(address, "/topics/quiet", "Accept: text/event-stream", ":ok\n")
}

/// Sends a request, and reads its answer up to what `ends` it.
fn ask(address: SocketAddr, path: &str, headers: &str, ends: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the gateway listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("sockets have timeouts");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it is read");
    hear(&mut socket, ends);
    socket
}

/// Sends a short frame, masked with a key of zeros.
fn say(socket: &mut TcpStream, first: u8, payload: &str) {
    let frame = [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload.as_bytes()].concat();
    socket.write_all(&frame).expect("it is read");
}

/// Reads up to the `end` of what is awaited.
fn hear(socket: &mut TcpStream, end: &str) {
    let mut heard = [0; 1024];
    let mut len = 0;
    while !heard[..len].windows(end.len()).any(|window| window == end.as_bytes()) {
        let count = socket.read(&mut heard[len..]).expect("the answer comes in time");
        assert!(count > 0, "no {end:?} in {:?}", String::from_utf8_lossy(&heard[..len]));
        len += count;
    }
}
