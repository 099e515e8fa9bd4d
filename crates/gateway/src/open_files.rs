//! Every connection is a file: how many the process needs, and how many it may have.

use crate::config::Config;

/// Listeners, timers, the metrics page, and what libraries keep open.
const OTHER_FILES: u64 = 256;

/// As many as the configuration allows connections, and some.
fn wanted(config: &Config) -> u64 {
    config.limits.connections as u64 + OTHER_FILES
}

/// Asks for as many as are wanted, and says when there are fewer.
pub fn raise(config: &Config) {
    let wanted = wanted(config);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(files) if files < wanted => {
            tracing::warn!(files, wanted, "fewer open files are allowed than limits.connections needs");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Says when a process of this user's would get fewer than are wanted.
pub fn warning(config: &Config) -> Option<String> {
    let wanted = wanted(config);
    let (_, hard) = rlimit::Resource::NOFILE.get().ok()?;
    let too_few =
        format!("limits.connections: needs {wanted} open files, and {hard} are allowed (ulimit -n)");
    (hard < wanted).then_some(too_few)
}
