//! The gateway and the clients that people use, as stories: each has a gateway of its own and a client to meet.
//!
//! What the stories need is installed by itself, once, under the target directory (see [`tools`]); where that cannot be,
//! they are ignored, and the reason is printed. `FANFARE_CLIENTS=off` ignores all of them and installs nothing.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the support is shared with tests of the usual harness"
)]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod autobahn;
mod browser;
mod deployed;
mod events;
mod faults;
mod fronts;
mod script;
mod stage;
mod streams;
mod tools;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use script::Script;
use support::Gateway;
use support::config_file::ConfigFile;
use support::tls::Authority;
use tools::{Tool, Unusable};

/// Whether the gateway has `/events`, `/poll`, patterns on `/ws` and `stale_after`.
const EVENTS: bool = true;

/// Stories wait more than they compute, so more of them run at once than there are cores.
const STORIES_AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(STORIES_AT_ONCE);
    let mut all = stories();
    all.extend(deployed::stories());
    all.extend(faults::stories());
    if EVENTS {
        all.extend(stories_of_many_topics());
    }
    libtest_mimic::run(&arguments, all).exit_code()
}

fn stories() -> Vec<Trial> {
    use Tool::{Chromium, Curl, HaProxy, Nginx, Node, OpenSsl, Promtool, Python};
    // The longest come first.
    vec![
        story("autobahn::behaviour", &[Python], autobahn::behaviour),
        story("autobahn::large_and_many_messages", &[Python], autobahn::large_and_many_messages),
        story("autobahn::compression", &[Python], autobahn::compression),
        story("haproxy::a_rolling_restart_loses_nobody", &[Python, HaProxy], rolling_restart),
        story("chromium::the_demo_page_lives", &[Node, Chromium, Curl], demo_page),
        story("chromium::pages_come_back", &[Node, Chromium], browser::pages_come_back),
        story(
            "chromium::a_page_of_another_site_may_what_is_said_of_it",
            &[Node, Chromium],
            browser::page_of_another_site,
        ),
        story("nginx::as_deployed_carries_everything", &[Python, Nginx], fronts::nginx),
        story("nginx::as_it_comes_lets_streams_flow", &[Python, Nginx], fronts::nginx_as_it_comes),
        told("haproxy::a_rolling_restart_loses_nothing", &[Python, HaProxy], "python/rolling.py"),
        story("haproxy::carries_everything", &[Python, HaProxy], fronts::haproxy),
        story("envoy::carries_everything", &[Python], fronts::envoy),
        told_by("haproxy::says_who_is_calling", "haproxy", &[Python, OpenSsl, HaProxy]),
        told_by("haproxy::passes_tls_through", "haproxy_passes_tls_through", &[Python, OpenSsl, HaProxy]),
        told_by("nginx::says_who_is_calling", "nginx", &[Python, OpenSsl, Nginx]),
        told_by("envoy::says_who_is_calling", "envoy", &[Python, OpenSsl]),
        story("chromium::fanfare_js", &[Node, Chromium], fanfare_js),
        story("prometheus::alerts_fire_when_they_should", &[Promtool], alerts::fire_when_they_should),
        story(
            "prometheus::the_dashboard_asks_in_its_words",
            &[Promtool],
            alerts::dashboard_queries_are_queries,
        ),
        told("websockets::a_crowd_gets_everything_in_order", &[Python], "python/websockets_crowd.py"),
        told("websockets::one_topic_as_posted", &[Python], "python/websockets_topic.py"),
        told("websockets::faults_have_their_codes", &[Python], "python/websockets_faults.py"),
        told("websockets::frames_are_published", &[Python], "python/websockets_publish.py"),
        told("websockets::many_topics_on_one_socket", &[Python], "python/websockets_native.py"),
        told("aiohttp::subscribes", &[Python], "python/aiohttp_subscribe.py"),
        told("aiohttp::publishes_in_every_shape", &[Python], "python/aiohttp_publish.py"),
        told("tornado::subscribes", &[Python], "python/tornado_subscribe.py"),
        story("httpx_sse::comes_back_and_is_told_of_gaps", &[Python], streams::httpx_sse),
        told("httpx_sse::odd_payloads_are_one_event_each", &[Python], "python/payloads.py"),
        compressed("websockets::compressed", &[Python], "python/websockets_deflate.py"),
        compressed("ws::compressed", &[Node], "node/ws_deflate.mjs"),
        compressed("chromium::compressed", &[Node, Chromium], "node/deflate_browser.mjs"),
        told("ws::raw_and_native", &[Node], "node/ws.mjs"),
        told("fanfare_js::alone", &[Node], "node/fanfare_js_alone.mjs"),
        told("fanfare_js::in_node", &[Node], "node/fanfare_js_node.mjs"),
        secured("websockets::one_topic_under_tls", &[Python], "python/websockets_topic.py"),
        secured("websockets::many_topics_under_tls", &[Python], "python/websockets_native.py"),
        secured("ws::raw_and_native_under_tls", &[Node], "node/ws.mjs"),
        secured("curl::under_tls", &[Curl], "shell/curl.sh"),
        told("curl::publishes_reads_and_is_told_why_not", &[Curl], "shell/curl.sh"),
        story("curl::reads_streams", &[Curl], streams::curl),
    ]
}

fn stories_of_many_topics() -> Vec<Trial> {
    use Tool::{Chromium, Curl, Node, Python};
    vec![
        story("chromium::an_events_page_comes_back", &[Node, Chromium], events::page),
        story("websockets::wildcards", &[Python], events::wildcards),
        story("httpx::polls", &[Python], events::polls),
        story("curl::polls", &[Curl], events::polls_of_curl),
    ]
}

/// A story that a script tells alone, about a gateway with its defaults.
fn told(name: &'static str, tools: &'static [Tool], script: &'static str) -> Trial {
    story(name, tools, move || Script::of(&Gateway::start(&[]), script, tools)?.run())
}

/// What a load balancer of `deploy/` tells a gateway of a client, and what it does not let through to it.
fn told_by(name: &'static str, told: &'static str, tools: &'static [Tool]) -> Trial {
    story(name, tools, move || Script::of(&Gateway::start(&[]), "python/told.py", tools)?.told_as(told).run())
}

/// The same, about a gateway that compresses the topics under `z.`.
fn compressed(name: &'static str, tools: &'static [Tool], script: &'static str) -> Trial {
    story(name, tools, move || {
        let config = ConfigFile::new("[[topics]]\nmatch = \"z.>\"\ndeflate = true\n");
        Script::of(&Gateway::start(&["--config", config.path()]), script, tools)?.run()
    })
}

/// The same, about a gateway that speaks TLS. Each client trusts the authority that its own environment names.
fn secured(name: &'static str, tools: &'static [Tool], script: &'static str) -> Trial {
    story(name, tools, move || {
        let authority = Authority::new();
        let flags = authority.flags();
        let gateway = Gateway::start(&flags.each_ref().map(String::as_str));
        let mut told = Script::of(&gateway, script, tools)?.told_as("under-tls");
        for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"] {
            told = told.with(variable, &authority.ca());
        }
        told.run()
    })
}

fn story(
    name: &'static str,
    tools: &'static [Tool],
    tell: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        if std::env::var("FANFARE_CLIENTS").is_ok_and(|value| value == "off") {
            return Ok(Completion::ignored_with("FANFARE_CLIENTS is off"));
        }
        for tool in tools {
            match tool.path() {
                Ok(_) => {}
                Err(Unusable::NoInstaller(reason)) => return Ok(Completion::ignored_with(reason)),
                Err(Unusable::NotInstalled(reason)) => return Err(reason.into()),
            }
        }
        tell().map(|()| Completion::Completed)
    })
}

/// Two gateways behind the balancer of `deploy/haproxy`; the script starts the second, and ends the first.
fn rolling_restart() -> Result<(), Failed> {
    // The balancer looks once a second, and has to see it twice.
    let mut first = Gateway::start(&["--drain-grace", "8s", "--drain-window", "500ms"]);
    Script::of(&first, "python/haproxy.py", &[Tool::Python, Tool::HaProxy])?.run()?;
    let status = first.wait();
    if status.success() { Ok(()) } else { Err(format!("the drained gateway ended with {status}").into()) }
}

/// The page of `fanfare demo`. The script ends the gateway, to see what the page says then.
fn demo_page() -> Result<(), Failed> {
    let gateway = Gateway::demo(&[]);
    Script::of(&gateway, "node/demo_page.mjs", &[Tool::Node, Tool::Chromium, Tool::Curl])?.run()
}

/// The JavaScript client, and a gateway that forgets soon.
fn fanfare_js() -> Result<(), Failed> {
    let gateway = Gateway::start(&["--replay-messages", "8"]);
    Script::of(&gateway, "node/fanfare_js_browser.mjs", &[Tool::Node, Tool::Chromium])?.run()
}

/// A program by its name, where `cargo test` finds it.
fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root's PATH leads.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A command whose environment says nothing about gateways, nor where else to look for Python's and Node's packages.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(&name);
        }
    }
    for name in ["PYTHONPATH", "PYTHONHOME", "NODE_PATH", "NODE_OPTIONS"] {
        command.env_remove(name);
    }
    command
}
