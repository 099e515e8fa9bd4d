//! A floor of a test's own: the real program, on a port of its own, ended with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A running `fanfare-load floor`.
pub(crate) struct Floor {
    pub(crate) process: Child,
    pub(crate) url: String,
}

impl Floor {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare-load"));
        command.args(["floor", "--listen", "127.0.0.1:0"]).args(flags).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self { url: format!("http://{address}"), process }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // A test may have ended it already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
