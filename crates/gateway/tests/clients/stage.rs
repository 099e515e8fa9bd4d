//! A gateway behind a wire, both at the command of the story's script.
//!
//! | `POST` to `FANFARE_STAGE` | what happens before it is answered |
//! |---|---|
//! | `/cut` | the connections through the wire (`FANFARE_WIRE`) end, and nobody new gets through |
//! | `/restart` | nobody new gets through; the gateway drains and ends; another is in its place |
//! | `/join` | the wire carries again |

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use libtest_mimic::Failed;

use crate::script::Script;
use crate::support::Gateway;
use crate::support::wire::Wire;
use crate::tools::Tool;

/// Flags of a gateway that does not keep the audience waiting when it drains.
pub(crate) const QUICK_DRAIN: [&str; 4] = ["--drain-grace", "10ms", "--drain-window", "10ms"];

pub(crate) struct Stage {
    /// Ended with the story: the thread that serves the script has a weak one.
    gateway: Arc<Mutex<Gateway>>,
    script: Script,
}

impl Stage {
    pub(crate) fn of(gateway: Gateway, script: &str, tools: &[Tool]) -> Result<Self, Failed> {
        let wire = Wire::to(gateway.address);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let script = Script::of(&gateway, script, tools)?
            .with("FANFARE_WIRE", &format!("http://{}", wire.address))
            .with("FANFARE_STAGE", &format!("http://{}", listener.local_addr()?));
        let gateway = Arc::new(Mutex::new(gateway));
        let weak = Arc::downgrade(&gateway);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A script that is not answered fails, and says so.
                let _ = serve(stream, &wire, &weak);
            }
        });
        Ok(Self { gateway, script })
    }

    pub(crate) fn run(self) -> Result<(), Failed> {
        let ended = self.script.run();
        drop(self.gateway);
        ended
    }
}

fn serve(stream: TcpStream, wire: &Wire, gateway: &Weak<Mutex<Gateway>>) -> io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let status = match request.split(' ').nth(1) {
        Some("/cut") => {
            wire.set_down(true);
            wire.cut();
            204
        }
        Some("/restart") => {
            wire.set_down(true);
            if let Some(gateway) = gateway.upgrade() {
                gateway.lock().unwrap_or_else(PoisonError::into_inner).restart();
            }
            204
        }
        Some("/join") => {
            wire.set_down(false);
            204
        }
        _ => 404,
    };
    write!(&stream, "HTTP/1.1 {status} .\r\nconnection: close\r\n\r\n")
}
