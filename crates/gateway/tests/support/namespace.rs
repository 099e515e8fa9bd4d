//! A loopback of a test's own, where packets can be lost without harm to anybody else.
#![expect(unsafe_code, reason = "std cannot give a thread another network")]

use std::process::Command;

/// Runs `story` on a thread that has a network of its own, as have all processes started there. Only root may.
pub fn in_a_network_of_its_own<T: Send>(story: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let apart = scope.spawn(|| {
            // SAFETY: it takes a number, and holds for this thread and its children alone.
            let is_apart = unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 };
            assert!(is_apart, "{}", std::io::Error::last_os_error());
            run("ip", &["link", "set", "lo", "up"]);
            story()
        });
        match apart.join() {
            Ok(told) => told,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs a command in the network of this thread, and returns what it says.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("what it says is text")
}

/// Has the kernel drop what `rule` names, in the manner of nft, until [`pass`].
pub fn drop_packets(rule: &str) {
    let wall = format!(
        "add table inet wall\nadd chain inet wall in {{ type filter hook input priority 0; }}\nadd rule inet wall in {rule} counter drop\n"
    );
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), wall).expect("the file can be written");
    run("nft", &["-f", file.path().to_str().expect("the path is text")]);
}

/// Takes the wall away, and says how many packets it has dropped.
pub fn pass() -> u64 {
    let wall = run("nft", &["list", "table", "inet", "wall"]);
    run("nft", &["delete", "table", "inet", "wall"]);
    let counts = wall.split("packets ").skip(1).map(|rest| rest.split(' ').next());
    counts.flatten().map(|count| count.parse::<u64>().expect("a number of packets")).sum()
}
