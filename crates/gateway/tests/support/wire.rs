//! A wire between clients and a gateway, which can be cut and joined again.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A proxy for TCP. Its thread stays until the test program ends.
#[derive(Clone)]
pub struct Wire {
    /// Where clients connect.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_down: bool,
    /// Both ends of all connections since the last cut.
    streams: Vec<TcpStream>,
}

impl Wire {
    pub fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let wire = Self { address, state: Arc::default() };
        let carrier = wire.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // If the gateway does not answer, the client sees its connection end at once.
                let _ = carrier.carry(client, gateway);
            }
        });
        wire
    }

    fn carry(&self, client: TcpStream, gateway: SocketAddr) -> io::Result<()> {
        let mut state = self.state();
        if state.is_down {
            return Ok(());
        }
        let server = TcpStream::connect(gateway)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            state.streams.push(stream.try_clone()?);
        }
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            thread::spawn(move || {
                // Ends with its direction; a cut one is an error, and as good.
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Ok(())
    }

    /// Ends all connections. Who comes now gets through.
    pub fn cut(&self) {
        for stream in self.state().streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// While it is down nobody new gets through; connections that are there stay.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
