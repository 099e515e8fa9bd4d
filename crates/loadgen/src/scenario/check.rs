//! What a scenario may not say.

use super::{Event, Format, Publishers, Scenario, Subscribers, Via};
use crate::payload::{PAYLOAD_BYTES_MIN, TOPICS_MAX};

/// One connection of `/events` or `/poll` takes no more.
const TOPICS_EACH_MAX: usize = 256;

type Checked = Result<(), String>;

fn rule(holds: bool, text: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { Err(text.into()) }
}

fn is_positive(number: f64) -> bool {
    number > 0.0 && number.is_finite()
}

impl Scenario {
    /// What is wrong with it, if anything: the key first.
    pub(crate) fn check(&self) -> Checked {
        rule(self.threads >= 1, "threads must be at least 1")?;
        rule(!self.stages.window.0.is_zero(), "stages.window must be above 0")?;
        rule(self.topics.count >= 1, "topics.count must be at least 1")?;
        rule(self.topics.count <= TOPICS_MAX, format!("topics.count must be at most {TOPICS_MAX}"))?;
        rule(is_segments(&self.topics.prefix), "topics.prefix must be the beginning of a topic's name")?;
        if let Some(hot) = self.topics.hot {
            rule(hot > 0.0 && hot < 1.0, "topics.hot must be above 0 and below 1")?;
            rule(self.topics.count >= 2, "topics.hot needs topics.count of at least 2")?;
        }
        for group in &self.subscribers {
            self.check_subscribers(group)
                .map_err(|problem| format!("subscribers {:?}: {problem}", group.name))?;
        }
        for group in &self.publishers {
            self.check_publishers(group)
                .map_err(|problem| format!("publishers {:?}: {problem}", group.name))?;
        }
        for event in &self.events {
            self.check_event(event).map_err(|problem| format!("events: {problem}"))?;
        }
        for (at, group) in self.subscribers.iter().enumerate() {
            let again = self.subscribers[..at].iter().any(|other| other.name == group.name);
            rule(!again, format!("subscribers {:?}: name is that of another group", group.name))?;
        }
        Ok(())
    }

    fn check_subscribers(&self, group: &Subscribers) -> Checked {
        rule(!group.name.is_empty(), "name must not be empty")?;
        rule(is_positive(group.bytes_per_second), "bytes_per_second must be above 0")?;
        rule(is_positive(group.connect_rate), "connect_rate must be above 0")?;
        rule(group.receive_buffer != Some(0), "receive_buffer must be above 0")?;
        rule(group.churn >= 0.0 && group.churn.is_finite(), "churn must be a number from 0")?;
        rule(!group.go.0.is_zero(), "go must be above 0")?;
        let each = group.topics_each;
        rule(each >= 1, "topics_each must be at least 1")?;
        rule(each <= self.topics.count, "topics_each must not exceed topics.count")?;
        rule(each <= TOPICS_EACH_MAX, format!("topics_each must be at most {TOPICS_EACH_MAX}"))?;
        rule(
            each == 1 || group.format.takes_several_topics(),
            format!("topics_each above 1 needs the format json, events or poll, not {}", group.format),
        )?;
        let inside = group.join_at.is_none_or(|at| at < self.stages.window);
        rule(inside, "join_at must be before the end of the window")
    }

    fn check_publishers(&self, group: &Publishers) -> Checked {
        rule(!group.name.is_empty(), "name must not be empty")?;
        let is_rate = |rate: f64| rate >= 0.0 && rate.is_finite();
        rule(is_rate(group.rate), "rate must be a number from 0")?;
        rule(group.ramp_to.is_none_or(is_rate), "ramp_to must be a number from 0")?;
        rule(group.burst_every.is_none_or(|every| !every.0.is_zero()), "burst_every must be above 0")?;
        rule(group.batch >= 1, "batch must be at least 1")?;
        rule(group.payload >= PAYLOAD_BYTES_MIN, format!("payload must be at least {PAYLOAD_BYTES_MIN}"))?;
        rule(group.threads >= 1, "threads must be at least 1")?;
        rule(
            group.threads <= self.topics.count,
            "threads must not exceed topics.count: a topic has one of them",
        )?;
        rule(group.connections.is_none_or(|count| count >= 1), "connections must be at least 1")?;
        if let Some(recording) = &group.recording {
            let speed = recording.speed;
            rule(speed >= 0.0 && speed.is_finite(), "recording.speed must be a number from 0")?;
            rule(self.publishers.len() == 1, "recording must be the only publishers")?;
            rule(group.threads == 1 && group.batch == 1, "recording needs threads and batch of 1")?;
        }
        rule(group.batch == 1 || group.via == Via::Http, "batch above 1 needs via = \"http\"")
    }

    fn check_event(&self, event: &Event) -> Checked {
        let Some(group) = self.subscribers.iter().find(|group| group.name == event.group) else {
            return Err(format!("group {:?} is not among the subscribers", event.group));
        };
        rule(event.at < self.stages.window, "at must be before the end of the window")?;
        rule(event.disconnect > 0.0 && event.disconnect <= 1.0, "disconnect must be above 0 and at most 1")?;
        rule(is_positive(event.reconnect_rate), "reconnect_rate must be above 0")?;
        rule(
            !event.resume || group.format != Format::Raw,
            "resume needs a format that tells offsets: json, sse, ndjson, events or poll",
        )
    }
}

/// Segments of a topic's name, as the protocol has them.
fn is_segments(prefix: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_=@,;:!-".contains(&byte);
    prefix.len() <= 150
        && prefix.split('.').all(|segment| !segment.is_empty() && segment.bytes().all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_refused_with_its_key() {
        let check = |text: &str, expect: &str| {
            let scenario: Scenario = toml::from_str(text).unwrap();
            let found = scenario.check().err().unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{text}: {found}");
        };
        let group =
            |keys: &str| format!("[topics]\ncount = 3\n[[subscribers]]\nname = \"a\"\ncount = 2\n{keys}");
        let feed = |keys: &str| format!("[[publishers]]\nname = \"f\"\nrate = 1\n{keys}");
        check("", "");
        check("threads = 0", "threads");
        check("stages = { window = \"0s\" }", "stages.window");
        check("topics = { count = 0 }", "topics.count");
        check("topics = { prefix = \"a b\" }", "topics.prefix");
        check("topics = { hot = 0.5 }", "topics.hot");
        check(&group("format = \"json\"\ntopics_each = 3"), "");
        check(&group("topics_each = 2"), "topics_each above 1 needs");
        check(&group("format = \"poll\"\ntopics_each = 4"), "exceed");
        check(&group("churn = -1.0"), "subscribers \"a\": churn");
        check(&group("join_at = \"10s\""), "join_at");
        check(&group("[[subscribers]]\nname = \"a\"\ncount = 1"), "name is that of another");
        check(&feed("payload = 10"), "publishers \"f\": payload");
        check(&feed("threads = 2"), "threads");
        check(&feed("via = \"websocket\"\nbatch = 2"), "batch");
        let event = |keys: &str| group(&format!("[[events]]\nat = \"1s\"\ngroup = \"a\"\n{keys}"));
        check(&event("disconnect = 1.0"), "");
        check(&event("disconnect = 1.5"), "disconnect");
        check(&event("disconnect = 1.0\nresume = true"), "offsets");
        check(&event("disconnect = 1.0").replace("group = \"a\"", "group = \"b\""), "\"b\" is not among");
    }
}
