//! Pages of people's own in Chromium: over a wire that is cut and to a gateway that is restarted, and where they are not
//! wanted.

use libtest_mimic::Failed;

use crate::script::Script;
use crate::stage::{QUICK_DRAIN, Stage};
use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::tools::Tool;

const TOOLS: [Tool; 2] = [Tool::Node, Tool::Chromium];

/// `EventSource` on a topic, which resumes by itself, and `WebSocket`, which the page resumes by hand.
pub(crate) fn pages_come_back() -> Result<(), Failed> {
    Stage::of(Gateway::start(&QUICK_DRAIN), "node/pages.mjs", &TOOLS)?.run()
}

/// A page of another site, whose origin is listed or not. The script writes the configuration and has it reloaded.
pub(crate) fn page_of_another_site() -> Result<(), Failed> {
    let config = ConfigFile::new("");
    let gateway = Gateway::start(&["--config", config.path()]);
    Script::of(&gateway, "node/strangers_page.mjs", &TOOLS)?.with("FANFARE_FILE", config.path()).run()
}
