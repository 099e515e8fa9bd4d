//! What is legal, and hardly what anybody wants.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Uri;

use super::Config;
use crate::units::shown;

/// Balancers and home routers forget a connection that was silent for a minute or two; longer, and pings come too late.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(75);

impl Config {
    /// One line for each contradiction that is no error, naming its key.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let limits = &self.limits;
        let mut warnings = Vec::new();
        let mut warn = |applies: bool, text: String| {
            if applies {
                warnings.push(text);
            }
        };
        let leaving = limits.drain_grace + limits.drain_window;
        warn(
            limits.drain_timeout < leaving,
            format!(
                "limits.drain_timeout: {} is less than drain_grace and drain_window together ({}): the last \
                 subscribers are not told",
                shown::Time(limits.drain_timeout),
                shown::Time(leaving)
            ),
        );
        warn(
            limits.ping_interval > PING_INTERVAL_MAX,
            format!(
                "limits.ping_interval: past {} a balancer may have forgotten the connection",
                shown::Time(PING_INTERVAL_MAX)
            ),
        );
        warn(
            limits.outbox_bytes > limits.outbox_budget,
            "limits.outbox_bytes: larger than limits.outbox_budget, which one subscriber alone can then use up"
                .into(),
        );
        warn(
            limits.replay_bytes > limits.retained_bytes,
            "limits.replay_bytes: larger than limits.retained_bytes, which one topic alone can then use up"
                .into(),
        );
        warn(
            limits.message_bytes > limits.outbox_bytes,
            "limits.message_bytes: larger than limits.outbox_bytes: one message fills an outbox".into(),
        );
        warn(
            self.auth.jwks.as_deref().is_some_and(is_open_to_others),
            "jwks: over http://, whoever is on the way can put keys of their own into it and sign tokens: https://"
                .into(),
        );
        for network in self.trusted_proxies.iter().filter(|network| network.prefix_len() == 0) {
            warn(
                true,
                format!(
                    "trusted_proxies: {network} is everybody: whoever connects chooses an address, and has no bounds of one"
                ),
            );
        }
        for (index, rule) in self.topics.iter().enumerate() {
            let before = &self.topics[..index];
            let same = before.iter().position(|other| other.pattern.as_str() == rule.pattern.as_str());
            let all = before.iter().position(|other| other.pattern.as_str() == ">");
            if let Some(first) = same.or(all) {
                warn(
                    true,
                    format!("topics[{index}].match: never looked at, because topics[{first}] matches first"),
                );
            }
        }
        warnings
    }
}

/// Whether a key set is fetched without TLS from another machine.
fn is_open_to_others(jwks: &str) -> bool {
    if !jwks.starts_with("http://") {
        return false;
    }
    let uri: Option<Uri> = jwks.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_ours = address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    !is_ours && !host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_names_its_key() {
        fn check(text: &str, expect: &[&str]) {
            let mut config = Config::default();
            config.read_toml(text, &mut Vec::new());
            let warnings = config.warnings();
            assert_eq!(warnings.len(), expect.len(), "{warnings:?}");
            for (warning, expect) in warnings.iter().zip(expect) {
                assert!(warning.starts_with(expect) && !warning.contains('\n'), "{warning}");
            }
        }
        check("", &[]);
        check("[limits]\ndrain_timeout = \"34999ms\"", &["limits.drain_timeout: 34999ms is less"]);
        check("[limits]\ndrain_timeout = \"35s\"", &[]);
        check("[limits]\nping_interval = \"76s\"", &["limits.ping_interval: past 75s"]);
        check("[limits]\noutbox_bytes = \"1GiB\"", &["limits.outbox_bytes: larger"]);
        check("[limits]\nreplay_bytes = \"1GiB\"", &["limits.replay_bytes: larger"]);
        check("[limits]\nmessage_bytes = \"65KiB\"", &["limits.message_bytes: larger"]);
        for ours in [
            "https://a.test/keys",
            "keys.json",
            "http://127.0.0.1:80/",
            "http://[::1]/",
            "http://LOCALHOST:1/",
        ] {
            check(&format!("jwks = \"{ours}\""), &[]);
        }
        for open in [
            "http://a.test/keys",
            "http://localhost.a.test/",
            "http://192.0.2.1:80/",
            "http://[2001:db8::1]/",
        ] {
            check(&format!("jwks = \"{open}\""), &["jwks: over http://"]);
        }
        check("trusted_proxies = [\"10.0.0.0/8\", \"::1\"]", &[]);
        check(
            "trusted_proxies = [\"10.0.0.0/8\", \"0.0.0.0/0\", \"::/0\"]",
            &["trusted_proxies: 0.0.0.0/0 is everybody", "trusted_proxies: ::/0 is everybody"],
        );
        check(
            "topics = [{ match = \"a\" }, { match = \"a\" }, { match = \">\" }, { match = \"b\" }]",
            &["topics[1].match: never", "topics[3].match: never"],
        );
    }
}
