//! Those who are cut off, and those who leave by their own while others come in their place.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Crowd;
use crate::dials::Dial;
use crate::schedule::nanoseconds;
use crate::subscriber::{Past, Subscriber};

impl Crowd {
    /// Cuts off those whom an event cuts off.
    pub(super) fn happen(&mut self, now_ns: u64) {
        let scene = Arc::clone(&self.scene);
        for (at, event) in scene.scenario.events.iter().enumerate() {
            let is_due = scene.in_window(nanoseconds(event.at.0)).is_some_and(|at_ns| at_ns <= now_ns);
            if !is_due || std::mem::replace(&mut self.happened[at], true) {
                continue;
            }
            let is_hit = |subscriber: &Subscriber| {
                subscriber.is_open() && scene.scenario.subscribers[subscriber.group].name == event.group
            };
            let hit: Vec<_> = self
                .subscribers
                .iter()
                .filter(|(_, subscriber)| is_hit(subscriber))
                .map(|(key, _)| key)
                .collect();
            let count = (hit.len() as f64 * event.disconnect).round() as usize;
            // Spread evenly, so that those of every topic are among them.
            let chosen = hit
                .iter()
                .enumerate()
                .filter(|(place, _)| (place + 1) * count / hit.len() > place * count / hit.len());
            for (_, &key) in chosen {
                let subscriber = self.let_go(key);
                let group = subscriber.group;
                let mut past = subscriber.into_past();
                // It can go on only from a place that it knows.
                if event.resume && scene.adapter.tells_offsets {
                    past.resumes = true;
                } else {
                    past = self.part(group, &past);
                }
                past.again = true;
                let from = 2 * scene.scenario.subscribers.len();
                self.dials[from + at].push(Dial { group, past });
            }
        }
    }

    /// Lets those leave that are due to, and others come in their place.
    pub(super) fn churn(&mut self, now_ns: u64) {
        let scene = Arc::clone(&self.scene);
        let began_ns = scene.began_ns.load(Relaxed);
        for (group, settings) in scene.scenario.subscribers.iter().enumerate() {
            let now_ns = now_ns.min(scene.window.until_ns());
            if settings.churn == 0.0 || now_ns <= began_ns {
                continue;
            }
            let due = ((now_ns - began_ns) as f64 / 1e9 * settings.churn * self.share) as u64;
            while self.left[group].0 < due {
                let Some(key) = self.next_to_leave(group) else { break };
                self.left[group].0 += 1;
                self.subscribers[key].close();
                let past = self.let_go(key).into_past();
                let past = self.part(group, &past);
                self.recorders[group].tally.asked += 1;
                self.dials[scene.scenario.subscribers.len() + group].push(Dial { group, past });
            }
        }
    }

    /// The next one of a group that is subscribed, in turn.
    pub(super) fn next_to_leave(&mut self, group: usize) -> Option<usize> {
        let cursor = self.left[group].1;
        let is_one = |key: &usize| {
            self.subscribers
                .get(*key)
                .is_some_and(|subscriber| subscriber.group == group && subscriber.is_open())
        };
        let key = (cursor..self.subscribers.capacity()).find(is_one).or_else(|| (0..cursor).find(is_one))?;
        self.left[group].1 = key + 1;
        Some(key)
    }

    /// Removes a subscriber that is subscribed.
    pub(super) fn let_go(&mut self, key: usize) -> Subscriber {
        let subscriber = self.subscribers.remove(key);
        self.reader.remove(key);
        self.slow.retain(|(slow, _)| *slow != key);
        self.recorders[subscriber.group].counters.open.fetch_sub(1, Relaxed);
        subscriber
    }

    /// Notes what a subscriber had that leaves by its own; what one has that comes in its place.
    pub(super) fn part(&mut self, group: usize, past: &Past) -> Past {
        let outcomes = past.tracks.iter().map(|track| track.outcome(true));
        self.recorders[group].tally.outcomes.extend(outcomes);
        Past::none(&self.scene, past.tracks.iter().map(crate::track::Track::topic))
    }
}
