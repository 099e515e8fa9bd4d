//! What a scenario comes to: its topics' names and weights, who has which, and how many connections there are.

use fanfare_market::Market;

use crate::pace::Pace;
use crate::publisher::CONNECTIONS_MAX;
use crate::scenario::{Publishers, Scenario, Subscribers};

/// The share of messages and subscribers that each topic gets.
#[derive(Debug)]
pub(crate) struct Shares {
    /// They sum to 1.
    pub(crate) weights: Vec<f64>,
    /// All get the same.
    pub(crate) even: bool,
}

/// The topics' names and shares.
pub(crate) fn topics(scenario: &Scenario) -> (Vec<String>, Shares) {
    let topics = &scenario.topics;
    let prefix = &topics.prefix;
    let (names, mut weights) = if topics.market {
        let market = Market::new(topics.count, scenario.seed);
        let names = market.symbols().map(|symbol| format!("{prefix}.{symbol}")).collect();
        (names, market.weights().to_vec())
    } else {
        let names = (0..topics.count).map(|topic| format!("{prefix}.{topic}")).collect();
        (names, vec![1.0 / topics.count as f64; topics.count])
    };
    if let Some(hot) = topics.hot {
        let rest: f64 = weights[1..].iter().sum();
        weights[1..].iter_mut().for_each(|weight| *weight *= (1.0 - hot) / rest);
        weights[0] = hot;
    }
    (names, Shares { weights, even: !topics.market && topics.hot.is_none() })
}

impl Shares {
    /// The topics of each subscriber of a group, in order: one by the shares, and those that follow it.
    pub(crate) fn deal(&self, group: &Subscribers) -> Vec<Vec<usize>> {
        let count = self.weights.len();
        let firsts = shares(group.count, &self.weights);
        let firsts = firsts.iter().enumerate().flat_map(|(topic, &share)| std::iter::repeat_n(topic, share));
        let all = firsts.map(|first| {
            let mut topics: Vec<_> = (first..first + group.topics_each).map(|topic| topic % count).collect();
            topics.sort_unstable();
            topics
        });
        all.collect()
    }
}

/// How many subscribers each topic gets: by `weights`, which sum to 1, the remainders to the largest parts left over.
fn shares(subscribers: usize, weights: &[f64]) -> Vec<usize> {
    let exact = |topic: usize| weights[topic] * subscribers as f64;
    let mut shares: Vec<_> = (0..weights.len()).map(|topic| exact(topic) as usize).collect();
    let mut by_remainder: Vec<_> = (0..weights.len()).collect();
    by_remainder.sort_by(|&a, &b| exact(b).fract().total_cmp(&exact(a).fract()));
    let left = subscribers.saturating_sub(shares.iter().sum());
    by_remainder.into_iter().cycle().take(left).for_each(|topic| shares[topic] += 1);
    shares
}

/// Subscribers that are to be there before anything is published.
pub(crate) fn first(scenario: &Scenario) -> usize {
    scenario.subscribers.iter().filter(|group| group.join_at.is_none()).map(|group| group.count).sum()
}

/// The groups whose latency is that of the run: those who read at full pace.
pub(crate) fn told(scenario: &Scenario) -> Vec<bool> {
    scenario.subscribers.iter().map(|group| group.pace == Pace::Full).collect()
}

/// The messages of each topic come over one connection.
pub(crate) fn is_ordered(scenario: &Scenario) -> bool {
    scenario.publishers.len() <= 1
        && scenario.publishers.iter().all(|group| !group.spread || connections(group) == 1)
}

/// The lengths that payloads have; none, if they are not known.
pub(crate) fn payload_lengths(scenario: &Scenario) -> Vec<usize> {
    if scenario.publishers.iter().any(|group| group.recording.is_some()) {
        return Vec::new();
    }
    let mut lengths: Vec<_> = scenario.publishers.iter().map(|group| group.payload).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// At most so many of a group.
pub(crate) fn connections(group: &Publishers) -> usize {
    group.threads * group.connections.unwrap_or(CONNECTIONS_MAX)
}

/// Of each thread, which has `topics` topics.
pub(crate) fn connections_each(group: &Publishers, topics: usize) -> usize {
    group.connections.unwrap_or_else(|| topics.min(CONNECTIONS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_and_add_up() {
        let check = |subscribers, weights: &[f64], expect: &[usize]| {
            assert_eq!(shares(subscribers, weights), expect, "{subscribers} over {weights:?}");
        };
        check(10, &[1.0], &[10]);
        check(7, &[0.5, 0.5], &[4, 3]);
        check(10, &[0.6, 0.3, 0.1], &[6, 3, 1]);
        check(0, &[0.5, 0.5], &[0, 0]);
        check(1, &[0.2, 0.5, 0.3], &[0, 1, 0]);
    }

    #[test]
    fn a_hot_topic_has_its_share_and_the_others_the_rest() {
        let scenario: Scenario = toml::from_str(
            "topics = { count = 5, hot = 0.8, prefix = \"a.b\" }\n\
             [[subscribers]]\nname = \"s\"\ncount = 20\nformat = \"json\"\ntopics_each = 2",
        )
        .unwrap();
        let (names, shares) = topics(&scenario);
        assert_eq!((names[0].as_str(), names[4].as_str()), ("a.b.0", "a.b.4"));
        assert!((shares.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9 && !shares.even);
        let dealt = shares.deal(&scenario.subscribers[0]);
        assert_eq!((dealt.len(), &dealt[0], &dealt[19]), (20, &vec![0, 1], &vec![0, 4]));
        assert_eq!(dealt.iter().filter(|topics| **topics == [0, 1]).count(), 16);
    }
}
