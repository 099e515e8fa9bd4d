//! A client's account of where its topics stand.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::peer::Peer;

/// A client that believes what it is told: it knows each topic's place, and finds any contradiction.
#[derive(Default)]
pub(crate) struct Ledger {
    places: BTreeMap<String, (String, u64)>,
    pub(crate) received: u64,
}

impl Ledger {
    /// Reads until so many messages have come.
    pub(crate) fn read(&mut self, peer: &mut Peer, received: u64) {
        while self.received < received {
            self.take(&peer.json());
        }
    }

    fn take(&mut self, told: &Value) {
        match told["type"].as_str() {
            None => {
                let topic = told["topic"].as_str().unwrap();
                let place = self.places.get_mut(topic).unwrap_or_else(|| panic!("never announced: {told}"));
                assert_eq!(told["offset"], place.1 + 1, "after {place:?}");
                place.1 += 1;
                self.received += 1;
            }
            // Replay comes: it is announced from behind.
            Some("topic") => {
                let (topic, epoch) = (told["topic"].as_str().unwrap(), told["epoch"].as_str().unwrap());
                let offset = told["offset"].as_u64().unwrap();
                let known = self.places.insert(topic.to_owned(), (epoch.to_owned(), offset));
                assert!(known.is_none_or(|known| known.0 != epoch || known.1 == offset), "moved: {told}");
            }
            _ => {}
        }
    }
}
