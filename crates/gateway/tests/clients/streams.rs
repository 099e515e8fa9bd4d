//! Responses that do not end, read by those who read them: coming back, gaps, and payloads that look like the format.

use libtest_mimic::Failed;

use crate::script::Script;
use crate::stage::{QUICK_DRAIN, Stage};
use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::tools::Tool;

/// httpx-sse over a wire that is cut, to a gateway that is restarted, and as a slow reader of what lies under `drop.`.
pub(crate) fn httpx_sse() -> Result<(), Failed> {
    let config = ConfigFile::new("[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n");
    let gateway = Gateway::start(&[&QUICK_DRAIN[..], &["--config", config.path()]].concat());
    Stage::of(gateway, "python/httpx_events.py", &[Tool::Python])?.run()
}

/// `curl -N`. The script drains the gateway, to see its streams end as they should.
pub(crate) fn curl() -> Result<(), Failed> {
    Script::of(&Gateway::start(&QUICK_DRAIN), "shell/streams.sh", &[Tool::Curl])?.run()
}
