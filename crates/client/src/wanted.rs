//! What the caller wants, and the commands that ask for it.
//!
//! # Bounds       what the server takes as one command: topics are spread over several, and of a wildcard's positions are
//! sent those that fit one

use crate::pattern::{covers, is_pattern};
use crate::places::Places;
use crate::refusal::Refusal;
use crate::topic_request::{Start, TopicRequest};

/// A topic or wildcard that the caller wants.
pub(crate) struct Wanted {
    pub(crate) request: TopicRequest,
    pub(crate) is_pattern: bool,
    /// On this connection.
    pub(crate) asked: bool,
    /// Where this connection starts with topics of it that have no place.
    pub(crate) start: Start,
    /// At some time the server took it: a topic that it covers and that is not known is younger than that.
    pub(crate) accepted: bool,
    /// On this connection.
    pub(crate) refused: Option<Refusal>,
}

pub(crate) fn is_wanted(wanted: &[Wanted], topic: &str) -> bool {
    wanted.iter().any(|wanted| covers(&wanted.request.topic, topic))
}

/// The topics of each subscribe command for what is not asked for yet: as JSON, and by name.
pub(crate) fn subscribes(
    wanted: &mut [Wanted],
    command_bytes_max: usize,
    places: &Places,
) -> Vec<(String, Vec<String>)> {
    let mut commands = Commands::new(command_bytes_max);
    for wanted in wanted.iter_mut().filter(|wanted| !wanted.asked) {
        wanted.asked = true;
        let entry = wanted.entry(commands.topics_bytes_max, places);
        commands.push(&entry, &wanted.request.topic);
    }
    commands.done
}

/// The topics of each unsubscribe command, as JSON.
pub(crate) fn unsubscribes(
    topics: impl Iterator<Item = String>,
    command_bytes_max: usize,
) -> impl Iterator<Item = String> {
    let mut commands = Commands::new(command_bytes_max);
    for topic in topics {
        commands.push(&serde_json::to_string(&topic).expect("a string, into memory"), &topic);
    }
    commands.done.into_iter().map(|(topics, _)| topics)
}

/// Entries, spread over as few commands as hold them in their order.
struct Commands {
    done: Vec<(String, Vec<String>)>,
    topics_bytes_max: usize,
}

impl Commands {
    fn new(command_bytes_max: usize) -> Self {
        /// The command around its topics.
        const AROUND_BYTES: usize = 64;
        Self { done: Vec::new(), topics_bytes_max: command_bytes_max.saturating_sub(AROUND_BYTES) }
    }

    fn push(&mut self, entry: &str, name: &str) {
        match self.done.last_mut() {
            Some((topics, names)) if topics.len() + 1 + entry.len() <= self.topics_bytes_max => {
                topics.push(',');
                topics.push_str(entry);
                names.push(name.to_owned());
            }
            _ => self.done.push((entry.to_owned(), vec![name.to_owned()])),
        }
    }
}

impl Wanted {
    pub(crate) fn new(request: TopicRequest) -> Self {
        Self {
            is_pattern: is_pattern(&request.topic),
            asked: false,
            start: request.start.unwrap_or(Start::Last),
            accepted: false,
            refused: None,
            request,
        }
    }

    /// What to ask for now, as JSON: from where it was, else as the caller asked.
    fn entry(&mut self, bytes_max: usize, places: &Places) -> String {
        let mut request = self.request.clone();
        if !self.is_pattern {
            if let Some(place) = places.place(&request.topic) {
                (request.place, request.start) = (Some(place), None);
            }
            return json(&request);
        }
        /// `"positions":{}` and a `from`.
        const POSITIONS_BYTES: usize = 48;
        /// `"":{"epoch":"","offset":9007199254740991},`
        const POSITION_BYTES: usize = 48;
        let mut room = bytes_max.saturating_sub(json(&request).len() + POSITIONS_BYTES);
        let mut positions = places.positions(&request.topic);
        // Of what a command cannot hold, those that spoke last are worth the most.
        let fitting = positions.iter().take_while(|(topic, place)| {
            let bytes = topic.len() + place.epoch.len() + POSITION_BYTES;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let fitting = fitting.count();
        let has_all = fitting == positions.len() && places.is_complete();
        positions.truncate(fitting);
        self.start = request.start.unwrap_or(Start::Last);
        if self.accepted && has_all && !request.conflates() {
            // A topic without a place was born while nobody listened: nothing of it may be missing.
            self.start = Start::Earliest;
            request.start = Some(Start::Earliest);
        }
        request.positions = positions;
        json(&request)
    }
}

fn json(request: &TopicRequest) -> String {
    serde_json::to_string(request).expect("strings and numbers, into memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_request::Place;

    fn places(topics: usize) -> Places {
        let mut places = Places::new(usize::MAX);
        for topic in 0..topics {
            places.resume(&format!("a.{topic:03}"), &Place { epoch: "k3x9".into(), offset: (1 << 53) - 1 });
        }
        places
    }

    #[test]
    fn topics_are_spread_over_commands_that_the_server_takes() {
        let mut wanted: Vec<Wanted> =
            (0..100).map(|topic| Wanted::new(format!("topic.{topic:03}").into())).collect();
        let commands = subscribes(&mut wanted, 256, &places(0));
        assert!(commands.iter().all(|(topics, _)| topics.len() <= 192));
        let names: Vec<&String> = commands.iter().flat_map(|(_, names)| names).collect();
        assert_eq!(names.len(), 100);
        assert!(names.is_sorted());
        assert_eq!(commands.len(), 7, "fewer would do");
        assert!(subscribes(&mut wanted, 256, &places(0)).is_empty(), "asked twice");
    }

    #[test]
    fn positions_that_do_not_fit_are_left_out_and_with_them_the_replay_of_new_topics() {
        for (topics, bytes_max, from_earliest) in [(20, 4096, true), (100, 4096, false), (100, 65536, true)] {
            let mut wanted = Wanted::new("a.*".into());
            wanted.accepted = true;
            let (entries, _) =
                subscribes(std::slice::from_mut(&mut wanted), bytes_max, &places(topics)).remove(0);
            assert!(entries.len() <= bytes_max - 64, "{} bytes", entries.len());
            assert!(
                entries.contains("9007199254740991")
                    && serde_json::from_str::<serde_json::Value>(&entries).is_ok()
            );
            assert_eq!(entries.contains("\"from\":\"earliest\""), from_earliest, "{topics} of {bytes_max}");
        }
    }
}
