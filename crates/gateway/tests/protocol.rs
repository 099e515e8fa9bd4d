//! docs/PROTOCOL.md is right: its examples, in their order, against one gateway.
//!
//! A `console` block is shell commands and what they print, a `ws` block is a conversation on `/ws`. `…` stands for anything,
//! and an epoch for whatever epoch stands in its place when it is met first.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use support::Gateway;
use support::peer::Peer;

/// The epochs of the document, and those of this run.
#[derive(Default)]
struct Epochs(HashMap<String, String>);

#[test]
fn the_documents_examples_are_true() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md");
    let document = std::fs::read_to_string(document).unwrap();
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut epochs = Epochs::default();
    let (mut consoles, mut conversations) = (0, 0);
    for block in document.split("\n```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').unwrap();
        match kind {
            "console" => {
                consoles += 1;
                console(&gateway, folder.path(), text, &mut epochs);
            }
            "ws" => {
                conversations += 1;
                converse(&gateway, text, &mut epochs);
            }
            _ => {}
        }
    }
    assert!(consoles >= 6 && conversations >= 3, "{consoles} and {conversations}");
}

fn console(gateway: &Gateway, folder: &Path, text: &str, epochs: &mut Epochs) {
    for step in format!("\n{text}").split("\n$ ").skip(1) {
        let (command, expect) = if step.lines().next().unwrap().ends_with("<<'END'") {
            step.split_once("\nEND").unwrap()
        } else {
            step.split_once('\n').unwrap_or((step, ""))
        };
        let end = if step.contains("<<'END'") { "\nEND\n" } else { "" };
        let address = gateway.address.to_string();
        let command = epochs.of_this_run(command).replace("127.0.0.1:8080", &address) + end;
        let done = Command::new("bash").args(["-c", &command]).current_dir(folder).output().unwrap();
        let got = String::from_utf8(done.stdout).unwrap().replace('\r', "");
        epochs.check(expect.trim(), got.trim(), &command);
    }
}

fn converse(gateway: &Gateway, text: &str, epochs: &mut Epochs) {
    let mut peer = Peer::websocket(gateway.address, "/ws");
    for line in text.lines() {
        match line.split_at(2) {
            ("S ", expect) => epochs.check(expect, &peer.text(), line),
            ("C ", command) => peer.say(&epochs.of_this_run(command)),
            _ => panic!("neither S nor C: {line}"),
        }
    }
}

impl Epochs {
    /// The text with the epochs of this run in place of the document's.
    fn of_this_run(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (document, run)| text.replace(document, run))
    }

    fn check(&mut self, expect: &str, got: &str, step: &str) {
        assert!(self.matches(expect, got), "{step}\nexpected: {expect}\ngot:      {got}");
    }

    fn matches(&mut self, expect: &str, got: &str) -> bool {
        if let Some(rest) = expect.strip_prefix('…') {
            // The shortest that fits.
            let cuts = got.char_indices().map(|(index, _)| index).chain([got.len()]);
            return cuts.into_iter().any(|cut| self.matches(rest, &got[cut..]));
        }
        if let Some(epoch) = expect.get(..8).filter(|epoch| is_epoch(epoch, &expect[8..])) {
            let Some(found) = got.get(..8) else { return false };
            if let Some(known) = self.0.get(epoch) {
                return known == found && self.matches(&expect[8..], &got[8..]);
            }
            self.0.insert(epoch.to_owned(), found.to_owned());
            let matches = self.matches(&expect[8..], &got[8..]);
            if !matches {
                self.0.remove(epoch);
            }
            return matches;
        }
        match (expect.chars().next(), got.chars().next()) {
            (None, None) => true,
            (Some(one), Some(other)) if one == other => {
                self.matches(&expect[one.len_utf8()..], &got[one.len_utf8()..])
            }
            _ => false,
        }
    }
}

/// An epoch is eight characters without a vowel, before a quotation mark or a number.
fn is_epoch(text: &str, rest: &str) -> bool {
    const ALPHABET: &str = "0123456789bcdfghjkmnpqrstvwxyz-_";
    text.chars().all(|digit| ALPHABET.contains(digit)) && rest.starts_with(['"', ':'])
}
