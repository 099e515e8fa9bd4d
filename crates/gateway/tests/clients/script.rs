//! Runs a story's script against a gateway, and any other command, for a bounded time and with its output in a file.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::support::Gateway;
use crate::tools::{self, Tool};

/// A script that takes longer has failed. Each has a shorter bound of its own, and then says more.
const PATIENCE: Duration = Duration::from_secs(90);

/// From asking a command to end to ending it.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is shown of a failed command's output.
const SHOWN_LINES: usize = 60;

/// A script of this folder, ready to run.
pub(crate) struct Script {
    command: Command,
    log: PathBuf,
}

impl Script {
    /// `name` is a path in this folder. The script finds the gateway and the tools in its environment.
    pub(crate) fn of(gateway: &Gateway, name: &str, tools: &[Tool]) -> Result<Self, Failed> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let mut command = match path.extension().and_then(|extension| extension.to_str()) {
            // Without -B it leaves files beside the sources.
            Some("py") => with_argument(Tool::Python, "-B")?,
            Some("mjs") => with_argument(Tool::Node, "--no-warnings")?,
            _ => crate::command("bash"),
        };
        command.arg(&path);
        for tool in tools {
            let name = tool.name().to_uppercase().replace('-', "_");
            command.env(format!("FANFARE_{name}"), tool.path()?);
        }
        command
            .env("FANFARE_URL", gateway.url(""))
            .env("FANFARE_ADMIN", format!("http://{}", gateway.admin))
            .env("FANFARE_PID", gateway.pid().to_string())
            .env("FANFARE_PROGRAM", env!("CARGO_BIN_EXE_fanfare"))
            .env("FANFARE_ROOT", Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .env("FANFARE_ARTIFACTS", tools::folder("../artifacts")?)
            .env("FANFARE_NODE_MODULES", tools::node_modules())
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        let log = tools::folder("log")?.join(name.replace('/', "-")).with_extension("log");
        Ok(Self { command, log })
    }

    /// What else it finds in its environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Which of the script's stories is told, if it has several. Its log is its own.
    pub(crate) fn told_as(mut self, story: &str) -> Self {
        let stem = self.log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.log.set_file_name(format!("{stem}-{story}.log"));
        self.with("FANFARE_STORY", story)
    }

    /// Runs it to its end. Its output is shown if it failed.
    pub(crate) fn run(mut self) -> Result<(), Failed> {
        run(&mut self.command, &self.log, PATIENCE)
    }
}

fn with_argument(tool: Tool, argument: &str) -> Result<Command, Failed> {
    let mut command = crate::command(tool.path()?);
    command.arg(argument);
    Ok(command)
}

/// Runs a command with its output in `log`. It has failed when it says so, or when it takes longer than `patience`.
pub(crate) fn run(command: &mut Command, log: &Path, patience: Duration) -> Result<(), Failed> {
    let output = File::create(log)?;
    // Its own group, so that what it starts ends with it.
    let mut process = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let end = match wait(&mut process, patience)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => {
            signal(&process, "TERM");
            wait(&mut process, FAREWELL)?;
            signal(&process, "KILL");
            process.wait()?;
            format!("not over after {patience:?}")
        }
    };
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    Err(format!("{} ({end}), {}:\n{shown}", command.get_program().display(), log.display()).into())
}

fn wait(process: &mut Child, patience: Duration) -> Result<Option<ExitStatus>, Failed> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Signals the command and all that it started and left in its group.
fn signal(process: &Child, name: &str) {
    let group = format!("-{}", process.id());
    // Nobody may be left.
    let _ =
        Command::new("kill").args([format!("-{name}").as_str(), "--", &group]).stderr(Stdio::null()).status();
}
