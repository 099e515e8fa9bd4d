//! A wire that treats what it carries badly: late, in crumbs, slowly, in one direction, or not at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// What happens to the bytes of each direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Treatment {
    /// Each write is cut into pieces of 1 to so many bytes; 0 cuts nothing.
    pub slice_max: usize,
    /// Each piece waits for so long before it goes on.
    pub delay: Duration,
    /// So many bytes a second go through at most; 0 is no bound.
    pub bytes_per_second: u32,
    /// After so many bytes one direction ends, and the other goes on; 0 never.
    pub half_close_after: usize,
}

/// A proxy for TCP. Its threads end with its connections, and the first with the test program.
pub struct Chaos {
    /// Where clients connect.
    pub address: SocketAddr,
    swallows: Arc<AtomicBool>,
}

impl Chaos {
    /// `up` is for what clients send, `down` for what the gateway sends.
    pub fn to(gateway: SocketAddr, up: Treatment, down: Treatment) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&swallows);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(gateway) else { continue };
                for (treatment, from, to) in [(up, &client, &server), (down, &server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let _ = to.set_nodelay(true);
                    let swallows = Arc::clone(&swallowing);
                    thread::spawn(move || carry(treatment, &from, &to, &swallows));
                }
            }
        });
        Self { address, swallows }
    }

    /// From now on bytes are taken and lead nowhere, and no end is passed on.
    pub fn swallow(&self) {
        self.swallows.store(true, Relaxed);
    }
}

fn carry(treatment: Treatment, mut from: &TcpStream, mut to: &TcpStream, swallows: &AtomicBool) {
    let mut buffer = [0; 4096];
    let mut random = fastrand::Rng::with_seed(1);
    let mut carried = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let length = match treatment.slice_max {
                0 => rest.len(),
                max => random.usize(1..=max).min(rest.len()),
            };
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            let slow = Duration::from_secs(length as u64).checked_div(treatment.bytes_per_second);
            let pause = treatment.delay + slow.unwrap_or_default();
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            if swallows.load(Relaxed) {
                continue;
            }
            if to.write_all(piece).is_err() {
                return;
            }
            carried += length;
            if treatment.half_close_after > 0 && carried >= treatment.half_close_after {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
    if !swallows.load(Relaxed) {
        let _ = to.shutdown(Shutdown::Write);
    }
}
