//! The clients' own programs and libraries, installed when a story first asks for them.
//!
//! | what | how | where |
//! |---|---|---|
//! | Python and its packages | `python3 -m venv`, `pip install` of python/requirements.txt | `target/clients/python` |
//! | Node and its packages | `npm install` of [`NODE_PACKAGES`] | `target/clients/node` |
//! | Chromium, curl, HAProxy, nginx, OpenSSL, promtool, systemd-analyze, nft, faketime, fiu-run | `apt-get install`, if they are missing, by root only | the system |
//!
//! Envoy and the linters of `deploy/` are among Python's packages.
//!
//! Without an installer (no `python3`, no `npm`, no `apt-get`, not root) what needs the tool is ignored. An installer that
//! is there and fails is a failure. What was installed carries a mark that says which versions, and is kept until it
//! differs. Logs are in `target/clients/log`.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::{command, program, script};

/// One step of an installation, and waiting for another process to finish its own.
const PATIENCE: Duration = Duration::from_secs(600);

const PYTHON_PACKAGES: &str = include_str!("python/requirements.txt");

/// Exact versions; neither has dependencies.
const NODE_PACKAGES: [&str; 2] = ["ws@8.23.0", "playwright-core@1.65.1"];

/// What a story needs besides a gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tool {
    /// With the packages of python/requirements.txt.
    Python,
    /// With [`NODE_PACKAGES`].
    Node,
    Chromium,
    Curl,
    HaProxy,
    Nginx,
    OpenSsl,
    Promtool,
    SystemdAnalyze,
    /// For a network of a story's own.
    Nft,
    /// Its library, too.
    Faketime,
    /// Its libraries, too.
    FiuRun,
    /// Which only root may use as the stories do.
    Unshare,
}

/// Why a tool cannot be had.
#[derive(Debug, Clone)]
pub(crate) enum Unusable {
    /// This machine has no way to install it.
    NoInstaller(String),
    /// It has one, which failed.
    NotInstalled(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NoInstaller(reason) | Self::NotInstalled(reason)) = self;
        f.write_str(reason)
    }
}

impl Tool {
    /// In lower case, as its program is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Chromium => "chromium",
            Self::Curl => "curl",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::OpenSsl => "openssl",
            Self::Promtool => "promtool",
            Self::SystemdAnalyze => "systemd-analyze",
            Self::Nft => "nft",
            Self::Faketime => "faketime",
            Self::FiuRun => "fiu-run",
            Self::Unshare => "unshare",
        }
    }

    /// Debian's package with the program.
    fn package(self) -> &'static str {
        match self {
            Self::Promtool => "prometheus",
            Self::SystemdAnalyze => "systemd",
            Self::FiuRun => "fiu-utils",
            Self::Nft => "nftables",
            Self::Unshare => "util-linux",
            _ => self.name(),
        }
    }

    /// The program, installed if need be.
    pub(crate) fn path(self) -> Result<&'static Path, Unusable> {
        static PATHS: [OnceLock<Result<PathBuf, Unusable>>; 13] = [const { OnceLock::new() }; 13];
        let path = PATHS[self as usize].get_or_init(|| match self {
            Self::Python => python(),
            Self::Node => node(),
            Self::Nft if !is_root() => Err(no_installer("only root can have a network of its own")),
            Self::Unshare if !is_root() => Err(no_installer("only root can have a file system of its own")),
            _ => debian(self.name(), self.package()),
        });
        path.as_deref().map_err(Clone::clone)
    }
}

/// A folder of ours under the target directory.
pub(crate) fn folder(name: &str) -> io::Result<PathBuf> {
    let path = clients().join(name);
    fs::create_dir_all(&path)?;
    path.canonicalize()
}

/// Where Node's packages are.
pub(crate) fn node_modules() -> PathBuf {
    clients().join("node/node_modules")
}

fn clients() -> PathBuf {
    // Cargo makes this one, `tmp` in the target directory, for integration tests.
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients")
}

fn python() -> Result<PathBuf, Unusable> {
    let python3 = program("python3").ok_or_else(|| no_installer("python3 is missing"))?;
    let folder = install("python", &python3, PYTHON_PACKAGES, |folder| {
        step("python-venv", command(&python3).args(["-m", "venv"]).arg(folder.join("venv")))?;
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, PYTHON_PACKAGES)?;
        let mut pip = command(folder.join("venv/bin/python"));
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"]);
        step("python-pip", pip.arg(requirements))
    })?;
    Ok(folder.join("venv/bin/python"))
}

fn node() -> Result<PathBuf, Unusable> {
    let node = program("node").ok_or_else(|| no_installer("node is missing"))?;
    let npm = program("npm").ok_or_else(|| no_installer("npm is missing"))?;
    install("node", &node, &NODE_PACKAGES.join("\n"), |folder| {
        let mut npm = command(&npm);
        // Nothing but these packages: no manifest, no scripts, no questions to anybody.
        npm.args([
            "install",
            "--no-save",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ]);
        step("node-npm", npm.arg("--prefix").arg(folder).args(NODE_PACKAGES))
    })?;
    Ok(node)
}

/// Installs into a folder of its own, unless that bears the mark of the same `packages` for the same program.
fn install(
    name: &str,
    program: &Path,
    packages: &str,
    steps: impl FnOnce(&Path) -> Result<(), Failed>,
) -> Result<PathBuf, Unusable> {
    let install = || -> Result<PathBuf, Failed> {
        let _lock = lock(name)?;
        let folder = folder(name)?;
        let version = command(program).arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let mark = format!("{} {version}\n{packages}", program.display());
        if fs::read_to_string(folder.join("installed")).is_ok_and(|text| text == mark) {
            return Ok(folder);
        }
        eprintln!("installing into {}", folder.display());
        fs::remove_dir_all(&folder)?;
        fs::create_dir_all(&folder)?;
        steps(&folder)?;
        fs::write(folder.join("installed"), mark)?;
        Ok(folder)
    };
    install().map_err(|failed| not_installed(name, &failed))
}

fn debian(name: &str, package: &str) -> Result<PathBuf, Unusable> {
    if let Some(path) = program(name) {
        return Ok(path);
    }
    let apt_get = program("apt-get")
        .ok_or_else(|| no_installer(&format!("{name} is missing, and there is no apt-get to install it")))?;
    if !is_root() {
        return Err(no_installer(&format!("{name} is missing, and only root can install it")));
    }
    let install = || -> Result<(), Failed> {
        let _lock = lock("debian")?;
        let _quiet = NoServices::begin()?;
        eprintln!("installing {name}");
        let apt_get = || {
            let mut command = command(&apt_get);
            command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
            command
        };
        step(&format!("{name}-update"), apt_get().arg("update"))?;
        step(
            &format!("{name}-install"),
            apt_get().args(["install", "-y", "--no-install-recommends", package]),
        )
    };
    install().map_err(|failed| not_installed(name, &failed))?;
    program(name).ok_or_else(|| Unusable::NotInstalled(format!("{name} is installed, but not to be found")))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// As long as it lives, packages start no services when they are installed.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn begin() -> io::Result<Self> {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self(None));
        }
        fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&policy, PermissionsExt::from_mode(0o755))?;
        Ok(Self(Some(policy)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.0 {
            let _ = fs::remove_file(policy);
        }
    }
}

fn step(name: &str, command: &mut Command) -> Result<(), Failed> {
    script::run(command, &folder("log")?.join(name).with_extension("log"), PATIENCE)
}

/// Excludes other processes until it is dropped.
fn lock(name: &str) -> Result<File, Failed> {
    let path = folder("log")?.with_file_name(name).with_extension("lock");
    let file = File::create(&path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(Duration::from_millis(100)),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        }
    }
}

fn no_installer(reason: &str) -> Unusable {
    Unusable::NoInstaller(reason.to_owned())
}

fn not_installed(name: &str, failed: &Failed) -> Unusable {
    let reason = failed.message().unwrap_or("no reason");
    Unusable::NotInstalled(format!("{name} cannot be installed: {reason}"))
}
