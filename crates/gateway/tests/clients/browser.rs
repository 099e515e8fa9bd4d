//! Pages of people's own in Chromium, over a wire that is cut and to a gateway that is restarted.

use libtest_mimic::Failed;

use crate::stage::{QUICK_DRAIN, Stage};
use crate::support::Gateway;
use crate::tools::Tool;

const TOOLS: [Tool; 2] = [Tool::Node, Tool::Chromium];

/// `EventSource` on a topic, which resumes by itself, and `WebSocket`, which the page resumes by hand.
pub(crate) fn pages_come_back() -> Result<(), Failed> {
    Stage::of(Gateway::start(&QUICK_DRAIN), "node/pages.mjs", &TOOLS)?.run()
}
