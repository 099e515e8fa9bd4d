//! Who sent a request that came through proxies.
//!
//! Each proxy adds the address it got the request from at the end of `X-Forwarded-For`; what stands before that, anybody may
//! have written. So the list is read from its end, as long as the one who wrote the entry is trusted: the first address that
//! is not a trusted proxy's is the client's. `Forwarded` and `X-Real-IP` say nothing about who wrote them, and are not read.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;

use crate::client::Client;
use crate::config::Config;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client of a request with these headers on a connection from `peer`.
pub(crate) fn client(config: &Config, peer: IpAddr, headers: &HeaderMap) -> Client {
    let mut address = peer;
    if !config.trusted_proxies.is_empty() {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            if !config.trusts(address) {
                break;
            }
            // What cannot be read hides whoever is behind it: the proxy that wrote it is as far as can be known.
            let Some(hop) = hop_address(hop) else { break };
            address = hop;
        }
    }
    Client::new(address, address != peer)
}

/// An address as proxies write it, perhaps with a port, an IPv6 address perhaps in brackets.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse().map(IpAddr::V6).ok(),
        None => hop.parse().ok().or_else(|| hop.parse().ok().map(|hop: SocketAddr| hop.ip())),
    };
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn config(trusted: &str) -> Config {
        Config::load(None, &[("trusted_proxies".into(), trusted.into())]).unwrap()
    }

    fn check(trusted: &str, peer: &str, lines: &[&[u8]], expect: &str) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        headers.append("forwarded", HeaderValue::from_static("for=203.0.113.66"));
        headers.append("x-real-ip", HeaderValue::from_static("203.0.113.67"));
        let client = client(&config(trusted), peer.parse().unwrap(), &headers);
        assert_eq!(
            client.address,
            expect.parse::<IpAddr>().unwrap(),
            "{lines:?} of {peer}, trusting {trusted}"
        );
        assert_eq!(client.is_forwarded, peer != expect);
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        check("", "192.0.2.1", &[b"203.0.113.9"], "192.0.2.1");
        check("10.0.0.0/8", "192.0.2.1", &[b"203.0.113.9"], "192.0.2.1");
        check("10.0.0.0/8", "11.0.0.1", &[b"10.0.0.2, 10.0.0.1"], "11.0.0.1");
        check("10.0.0.1", "10.0.0.2", &[b"203.0.113.9"], "10.0.0.2");
    }

    #[test]
    fn the_last_address_that_a_trusted_proxy_wrote_is_the_clients() {
        check("10.0.0.0/8", "10.0.0.1", &[b"203.0.113.9"], "203.0.113.9");
        check("10.0.0.0/8", "10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.0/8", "10.0.0.1", &[b"198.51.100.1, 203.0.113.9"], "203.0.113.9");
        check("10.0.0.0/8", "10.0.0.1", &[b"127.0.0.1,203.0.113.9,10.0.0.7 ,\t10.0.0.8"], "203.0.113.9");
        check("10.0.0.0/8", "10.0.0.1", &[b"198.51.100.1", b"203.0.113.9"], "203.0.113.9");
        check("10.0.0.0/8", "10.0.0.1", &[b"203.0.113.9", b"10.0.0.7", b"10.0.0.8, 10.0.0.9"], "203.0.113.9");
        // Trusted as far as it goes: the first of them.
        check("10.0.0.0/8", "10.0.0.1", &[b"10.0.0.9, 10.0.0.8"], "10.0.0.9");
        // 100 hops that somebody made up, and one by the proxy.
        let spoofed = [b"10.0.0.2, ".repeat(100), b"203.0.113.9".to_vec()].concat();
        check("10.0.0.0/8", "10.0.0.1", &[&spoofed], "203.0.113.9");
        let all = b"10.0.0.2, ".repeat(99);
        check("10.0.0.0/8", "10.0.0.1", &[&all[..all.len() - 2]], "10.0.0.2");
    }

    #[test]
    fn addresses_have_many_forms_and_mean_the_same() {
        let check = |hop: &str, expect: &str| {
            check("10.0.0.0/8,fd00::/8", "fd00::1", &[hop.as_bytes()], expect);
        };
        check("203.0.113.9:51234", "203.0.113.9");
        check("2001:db8::9", "2001:db8::9");
        check("2001:DB8:0:0:0:0:0:9", "2001:db8::9");
        check("[2001:db8::9]", "2001:db8::9");
        check("[2001:db8::9]:51234", "2001:db8::9");
        check("::ffff:203.0.113.9", "203.0.113.9");
        check("[::ffff:203.0.113.9]:1", "203.0.113.9");
        check("203.0.113.9, ::ffff:10.0.0.1", "203.0.113.9");
    }

    #[test]
    fn what_cannot_be_read_is_the_end_of_what_is_known() {
        for garbage in [
            &b""[..],
            b"unknown",
            b"_hidden",
            b"203.0.113.9 198.51.100.1",
            b"203.0.113.256",
            b"203.0.113.9:",
            b"203.0.113.9:65536",
            b"[203.0.113.9]",
            b"[2001:db8::9",
            b"2001:db8::9%eth0",
            b"for=203.0.113.9",
            b"\"203.0.113.9\"",
            b"\xff\xfe",
        ] {
            check("10.0.0.0/8", "10.0.0.1", &[garbage], "10.0.0.1");
            let line = [b"203.0.113.9,", garbage, b",10.0.0.7"].concat();
            check("10.0.0.0/8", "10.0.0.1", &[&line], "10.0.0.7");
        }
    }
}
