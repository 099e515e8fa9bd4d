//! A scenario made smaller, or larger, in its load: the same things happen to fewer subscribers at lower rates.

use std::time::Duration;

use super::{Scenario, Span};

impl Scenario {
    /// Subscribers, connections and rates times `factor`, each at least one where there was one; topics are cut to what
    /// subscribers are left to have them. Payloads, batches and the order of events stay.
    pub(crate) fn scale(&mut self, factor: f64) {
        let whole =
            |count: usize| if count == 0 { 0 } else { ((count as f64 * factor).round() as usize).max(1) };
        // Slower than once in 100 ms, little would happen in a short run.
        let rate = |rate: f64| if rate == 0.0 { 0.0 } else { (rate * factor).max(rate.min(10.0)) };
        for group in &mut self.subscribers {
            group.count = whole(group.count);
            group.churn = rate(group.churn);
        }
        for group in &mut self.publishers {
            // Nor with less than a few requests a second.
            let least = 10.0 * group.batch as f64;
            group.rate = rate(group.rate).max(group.rate.min(least));
            group.ramp_to = group.ramp_to.map(|to| rate(to).max(to.min(least)));
            group.connections = group.connections.map(whole);
        }
        for event in &mut self.events {
            event.reconnect_rate = rate(event.reconnect_rate);
        }
        let readers = self.subscribers().max(1);
        let needed = self
            .subscribers
            .iter()
            .map(|group| group.topics_each)
            .chain(self.publishers.iter().map(|group| group.threads));
        let least = needed.max().unwrap_or(1).max(2);
        if factor < 1.0 {
            self.topics.count = self.topics.count.min(readers.max(least));
        }
    }

    /// Warm-up, window, hold and the moments in them times `factor`.
    pub(crate) fn scale_time(&mut self, factor: f64) {
        let scaled = |span: Span| Span(Duration::from_secs_f64(span.0.as_secs_f64() * factor));
        self.stages.warmup = scaled(self.stages.warmup);
        self.stages.window = scaled(self.stages.window);
        self.stages.hold = scaled(self.stages.hold);
        for event in &mut self.events {
            event.at = scaled(event.at);
        }
        for group in &mut self.subscribers {
            group.join_at = group.join_at.map(scaled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_scenario_still_has_something_of_all() {
        let mut scenario: Scenario = toml::from_str(
            "[topics]\ncount = 1000\n[[subscribers]]\nname = \"a\"\ncount = 2000\n[[subscribers]]\nname = \"b\"\n\
             count = 3\n[[publishers]]\nname = \"p\"\nrate = 1000",
        )
        .unwrap();
        scenario.scale(0.02);
        let counts: Vec<_> = scenario.subscribers.iter().map(|group| group.count).collect();
        assert_eq!((counts, scenario.publishers[0].rate, scenario.topics.count), (vec![40, 1], 20.0, 41));
        assert_eq!(scenario.check(), Ok(()));
        scenario.scale_time(0.5);
        assert_eq!(scenario.stages.window.to_string(), "5s");
    }
}
