//! Many topics at once: `/events`, `/poll`, patterns on `/ws`, and topics that say when they are silent.

use libtest_mimic::Failed;

use crate::script::Script;
use crate::stage::{QUICK_DRAIN, Stage};
use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::tools::Tool;

/// `EventSource` on `/events` in Chromium, over a wire that is cut and to a gateway that is restarted.
pub(crate) fn page() -> Result<(), Failed> {
    let tools = [Tool::Node, Tool::Chromium];
    Stage::of(Gateway::start(&QUICK_DRAIN), "node/events_page.mjs", &tools)?.run()
}

/// httpx and requests, with 50 messages kept of each topic.
pub(crate) fn polls() -> Result<(), Failed> {
    let gateway = Gateway::start(&["--replay-messages", "50"]);
    Script::of(&gateway, "python/polls.py", &[Tool::Python])?.run()
}

/// The same with curl.
pub(crate) fn polls_of_curl() -> Result<(), Failed> {
    let gateway = Gateway::start(&["--replay-messages", "50"]);
    Script::of(&gateway, "shell/polls.sh", &[Tool::Curl])?.run()
}

/// Patterns with websockets, and topics under `quiet.` that are stale after a second.
pub(crate) fn wildcards() -> Result<(), Failed> {
    let config = ConfigFile::new("[[topics]]\nmatch = \"quiet.>\"\nstale_after = \"1s\"\n");
    let gateway = Gateway::start(&[&QUICK_DRAIN[..], &["--config", config.path()]].concat());
    Stage::of(gateway, "python/wildcards.py", &[Tool::Python])?.run()
}
