//! Those who read slowly or not at all. They have left the event loop: they are read here, when their time has come.
//!
//! # Bounds       [`LOOK_MAX_NS`] to look at what the stalled were sent

use std::io::{self, ErrorKind, Read as _};

use super::{Crowd, TRICKLE_EVERY};
use crate::pace::{self, Allowance, Pace};
use crate::schedule::nanoseconds;
use crate::subscriber::Ended;

/// A thread that was held up makes good for so much.
const TRICKLE_BURST_NS: u64 = 100_000_000;
const LOOK_MAX_NS: u64 = 3_000_000_000;
/// Nothing came for so long: nothing more was waiting.
const LOOK_QUIET_NS: u64 = 300_000_000;

#[derive(Debug)]
pub(super) enum Slow {
    Trickle(Allowance),
    StopAndGo,
}

impl Crowd {
    /// Reads until the socket has no more. A read that leaves room in the buffer took all there was; only a connection
    /// that is closing is read to its end, because its end gives no second event.
    pub(super) fn read(&mut self, key: usize, closing: bool, buffer: &mut [u8]) -> Result<(), Ended> {
        loop {
            match self.read_once(key, buffer)? {
                Some(length) if length == buffer.len() || closing => {}
                _ => return Ok(()),
            }
        }
    }

    /// Reads once and handles what came: how much, or `None` if there was nothing.
    pub(super) fn read_once(&mut self, key: usize, buffer: &mut [u8]) -> Result<Option<usize>, Ended> {
        let subscriber = &mut self.subscribers[key];
        let length = loop {
            match subscriber.socket().read(buffer) {
                Ok(0) => return Err(Ended::EndOfStream),
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Ended::Socket(error.kind())),
            }
        };
        let now_ns = self.scene.clock.now_ns();
        let recorder = &mut self.recorders[subscriber.group];
        subscriber.handle_bytes(&buffer[..length], now_ns, &self.scene, &self.accept, recorder)?;
        Ok(Some(length))
    }

    /// Lets the slow read what they may, now and then.
    pub(super) fn read_slowly(&mut self, buffer: &mut [u8]) {
        let now_ns = self.scene.clock.now_ns();
        if now_ns - self.slow_ns < nanoseconds(TRICKLE_EVERY) {
            return;
        }
        self.slow_ns = now_ns;
        let mut all = std::mem::take(&mut self.slow);
        all.retain_mut(|(key, slow)| {
            let settings = self.subscribers[*key].settings(&self.scene);
            let read = match slow {
                Slow::Trickle(allowance) => {
                    let may =
                        allowance.at(now_ns, settings.bytes_per_second, TRICKLE_BURST_NS).min(buffer.len());
                    if may == 0 {
                        return true;
                    }
                    self.read_once(*key, &mut buffer[..may])
                        .map(|length| allowance.spend(length.unwrap_or(0)))
                }
                Slow::StopAndGo => {
                    let (go_ns, stop_ns) = (nanoseconds(settings.go.0), nanoseconds(settings.stop.0));
                    if !pace::goes(now_ns, *key, go_ns, stop_ns) {
                        return true;
                    }
                    self.read(*key, true, buffer)
                }
            };
            match read {
                Ok(()) => true,
                Err(ended) => {
                    self.end(*key, &ended);
                    false
                }
            }
        });
        self.slow = all;
    }

    /// Reads what the stalled were sent, to learn which of them the server has closed. Their messages count for nothing.
    pub(super) fn look_at_the_stalled(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut stalled = 0;
        for (key, subscriber) in &mut self.subscribers {
            if subscriber.is_open() && subscriber.settings(&self.scene).pace == Pace::Never {
                self.reader.resume(key, subscriber.socket())?;
                stalled += 1;
            }
        }
        let began_ns = self.scene.clock.now_ns();
        let (mut now_ns, mut heard_ns) = (began_ns, began_ns);
        while stalled > 0 && now_ns - began_ns < LOOK_MAX_NS && now_ns - heard_ns < LOOK_QUIET_NS {
            let heard = self.turn(TRICKLE_EVERY, buffer)?;
            now_ns = self.scene.clock.now_ns();
            if heard {
                heard_ns = now_ns;
            }
        }
        Ok(())
    }
}
