//! The moments of a run that [`View`] shows.

use crate::process::{Sample, Watch};
use crate::report::findings::BUSY_MAX;
use crate::series::Point;
use crate::view::{Moment, Use, View};

/// What is shown while a run goes on.
#[derive(Debug)]
pub(crate) struct Meter {
    view: View,
    /// Which run it is.
    run: String,
    asked: u64,
    generator: Watch,
    last: Option<Sample>,
}

impl Meter {
    /// Of the run `run` with `asked` subscribers.
    pub(crate) fn new(run: String, asked: u64) -> Self {
        let generator = Watch::own();
        let last = generator.sample().ok();
        Self { view: View::new(), run, asked, generator, last }
    }

    /// Shows that `stage` is done to the part `done` of 1, the last half second, and the gaps that were announced where they
    /// are, if it is time to.
    pub(crate) fn show(&mut self, stage: &str, done: f64, point: Option<&Point>, gaps: Option<u64>) {
        if self.view.due().is_none() {
            return;
        }
        let (generator, busiest) = self.generator_use().unzip();
        let mut moment = Moment {
            run: &self.run,
            stage,
            done,
            asked: self.asked,
            gaps,
            generator,
            generator_is_busy: busiest.is_some_and(|share| share > BUSY_MAX),
            ..Moment::default()
        };
        if let Some(point) = point {
            moment.connected = point.connected;
            moment.published_per_second = point.published_per_second;
            moment.delivered_per_second = point.delivered_per_second;
            moment.latency_us = point.p50_us.zip(point.p99_us);
            moment.lost = point.lost;
            let used = point.server_cpu_share.zip(point.server_resident_bytes);
            moment.server = used.map(|(cpu_share, resident_bytes)| Use { cpu_share, resident_bytes });
        }
        self.view.show(&moment);
    }

    /// Leaves the terminal free for what follows.
    pub(crate) fn clear(&mut self) {
        self.view.clear();
    }

    /// What this process used since the last call, and the part of the time that its busiest thread ran or waited for a
    /// core.
    fn generator_use(&mut self) -> Option<(Use, f64)> {
        let now = self.generator.sample().ok()?;
        let resident_bytes = self.generator.resident_bytes().ok()?;
        let last = self.last.replace(now.clone())?;
        let cpu_share = now.used_since(&last).seconds() / now.seconds_since(&last);
        let shares = now.shares_since(&last);
        let busiest = shares.iter().map(|share| share.running + share.waiting).fold(0.0, f64::max);
        Some((Use { cpu_share, resident_bytes }, busiest))
    }
}
