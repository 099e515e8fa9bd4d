//! A gateway of a test's own: the real program, on ports of its own, ended with the test.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of it")]

pub mod chaos;
pub mod config_file;
pub mod confined;
pub mod metrics;
pub mod namespace;
pub mod peer;
pub mod stream;
pub mod tls;
pub mod wire;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;

/// Waits end here, and the test fails: far more than anything needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running `fanfare serve` (or `demo`).
pub struct Gateway {
    process: Child,
    /// The public address.
    pub address: SocketAddr,
    /// The operators' address.
    pub admin: SocketAddr,
    how: How,
}

/// The command, its flags, and what is in its environment.
type How = (String, Vec<String>, Vec<(String, String)>);

impl Gateway {
    /// Starts `fanfare serve` with two workers and `args` behind.
    pub fn start(args: &[&str]) -> Self {
        Self::start_command("serve", args, &[])
    }

    /// Starts `fanfare serve` with variables in its environment, too.
    pub fn start_in(environment: &[(&str, &str)], args: &[&str]) -> Self {
        Self::start_command("serve", args, environment)
    }

    /// Starts `fanfare serve`, which logs from `info` on, to where only the test may read.
    pub fn start_logging(args: &[&str]) -> (Self, ChildStderr) {
        let mut gateway = Self::start_logging_to(Stdio::piped(), args);
        let log = gateway.process.stderr.take().expect("its log is a pipe");
        (gateway, log)
    }

    /// The same, to somewhere else.
    pub fn start_logging_to(log: impl Into<Stdio>, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let how = ("serve".to_owned(), args, vec![("FANFARE_LOG".to_owned(), "info".to_owned())]);
        Self::start_with_log("127.0.0.1:0", how, log.into())
    }

    /// Starts `fanfare demo`.
    pub fn demo(args: &[&str]) -> Self {
        Self::start_command("demo", args, &[])
    }

    /// Starts `fanfare serve`, and what it logs is in a file.
    pub fn start_logged(environment: &[(&str, &str)], args: &[&str]) -> (Self, NamedTempFile) {
        let log = NamedTempFile::new().expect("a file can be made");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let how = ("serve".to_owned(), args, environment.collect());
        let output = log.reopen().expect("the file is there").into();
        (Self::start_with_log("127.0.0.1:0", how, output), log)
    }

    fn start_command(command: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Self::start_on("127.0.0.1:0", (command.to_owned(), args, environment.collect()))
    }

    fn start_on(listen: &str, how: How) -> Self {
        Self::start_with_log(listen, how, Stdio::inherit())
    }

    fn start_with_log(listen: &str, how: How, log: Stdio) -> Self {
        let (command, args, environment) = &how;
        let mut process = fanfare()
            .args([command, "--listen", listen, "--admin", "127.0.0.1:0", "--workers", "2"])
            .args(args)
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        let mut text = String::new();
        let (mut address, mut admin) = (None, None);
        while address.is_none() || admin.is_none() {
            text.clear();
            assert!(
                output.read_line(&mut text).expect("its output is text") > 0,
                "the gateway ended at once"
            );
            for found in addresses(&text) {
                if address.is_none() {
                    address = Some(found);
                } else if Some(found) != address {
                    admin = Some(found);
                }
            }
        }
        // Nothing else it prints may block it.
        std::thread::spawn(move || output.read_to_string(&mut String::new()));
        Self { process, address: address.expect("checked"), admin: admin.expect("checked"), how }
    }

    /// Drains it, and starts another in its place: with the same flags, on the same public address.
    pub fn restart(&mut self) {
        // Bound but not listening, this keeps the port from everybody else meanwhile.
        let place = Socket::new(Domain::for_address(self.address), Type::STREAM, None).expect("a socket");
        place.set_reuse_address(true).expect("TCP has it");
        place.set_reuse_port(true).expect("Linux has it");
        place.bind(&self.address.into()).expect("workers share their port, so we may, too");
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "the drained gateway ended with {status}");
        *self = Self::start_on(&self.address.to_string(), std::mem::take(&mut self.how));
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `http://…`, or `https://…` of one that speaks TLS.
    pub fn url(&self, path: &str) -> String {
        format!("http{}://{}{path}", self.s(), self.address)
    }

    /// `ws://…`, or `wss://…`.
    pub fn ws_url(&self, path: &str) -> String {
        format!("ws{}://{}{path}", self.s(), self.address)
    }

    fn s(&self) -> &str {
        if self.how.1.iter().any(|arg| arg == "--tls-certificate") { "s" } else { "" }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "the gateway is gone");
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What chooses the writer for a whole run of the tests: all of them pass with each.
const WRITER: &str = "FANFARE_WRITER";

/// The program, with an environment that says nothing but how to write.
pub fn fanfare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let is_ours = |name: &str| name.starts_with("FANFARE_") && name != WRITER;
    for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.env("FANFARE_LOG", "warn,fanfare=error");
    command
}

/// Every `127.0.0.1:PORT` in a line.
fn addresses(line: &str) -> Vec<SocketAddr> {
    line.split(|character: char| !(character.is_ascii_digit() || matches!(character, '.' | ':')))
        .filter_map(|word| word.trim_end_matches([',', '.']).trim_start_matches(':').parse().ok())
        .collect()
}
