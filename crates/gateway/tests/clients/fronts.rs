//! What stands in front of a gateway and has to carry everything: HAProxy, nginx and Envoy, as `deploy/` has them.

use libtest_mimic::Failed;

use crate::EVENTS;
use crate::script::Script;
use crate::stage::QUICK_DRAIN;
use crate::support::Gateway;
use crate::support::config_file::ConfigFile;
use crate::tools::Tool;

/// With nothing but the gateway's address: what passes, and what is refused how.
pub(crate) fn nginx_as_it_comes() -> Result<(), Failed> {
    behind("python/nginx.py", "as_it_comes", Tool::Nginx)
}

pub(crate) fn nginx() -> Result<(), Failed> {
    behind("python/nginx.py", "as_deployed", Tool::Nginx)
}

pub(crate) fn haproxy() -> Result<(), Failed> {
    behind("python/haproxy_carries.py", "as_deployed", Tool::HaProxy)
}

pub(crate) fn envoy() -> Result<(), Failed> {
    // Envoy comes with Python's packages.
    behind("python/envoy_carries.py", "as_deployed", Tool::Python)
}

/// A gateway with a sign of life every 3 s, and with topics under `drop.` that drop their oldest messages.
fn behind(script: &str, story: &str, front: Tool) -> Result<(), Failed> {
    let config = ConfigFile::new("[[topics]]\nmatch = \"drop.>\"\nslow = \"drop-oldest\"\n");
    let flags = ["--config", config.path(), "--ping-interval", "3s", "--pong-timeout", "2900ms"];
    let gateway = Gateway::start(&[&QUICK_DRAIN[..], &flags].concat());
    let script = Script::of(&gateway, script, &[Tool::Python, front])?.told_as(story);
    if EVENTS { script.with("FANFARE_EVENTS", "1") } else { script }.run()
}
