//! `knee`: raises the rate step by step until the server passes a bound; up to there it holds.
//!
//! ```text
//!     from ── × factor ── × factor ──┬── broke: `refine` steps more, between the highest rate that held and the lowest
//!                                    │          that broke
//!                                    └── `steps_max` of them: it held to the end
//! ```
//!
//! Each step is a run of its own with new connections. All of them are in the report, in the order of their rates.

use std::sync::atomic::Ordering::Relaxed;

use search::Search;

use crate::args::Knee as Options;
use crate::commands;
use crate::report::{self, Knee, KneeBounds, KneeBroke, KneeHeld, Report, Run};
use crate::run;
use crate::scenario::{Refused, Scenario};
use crate::units::grouped;

mod judge;
mod search;

/// Looks for the knee; `false` if no step held or not all of them could be made.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let common = &options.common;
    let mut scenario = options.scenario()?;
    let against = commands::against(common)?;
    commands::can_run(&against.adapter, &scenario)?;
    let bounds = KneeBounds { p99_us: options.p99.0.as_secs_f64() * 1e6, lost: options.lost };
    let from = options.from.unwrap_or_else(|| rate_of(&scenario));
    let mut search = Search::new(from, options.factor, options.steps_max, options.refine);
    let interrupted = run::interrupt_flag()?;
    let started = report::now();
    let (mut steps, mut partial) = (Vec::new(), None);
    while let Some(rate) = search.next() {
        if interrupted.load(Relaxed) {
            partial = Some("interrupted".to_owned());
            break;
        }
        set_rate(&mut scenario, rate);
        let shown = format!("step {}, {} messages/s", steps.len() + 1, grouped(rate));
        match run::run(&scenario, None, &against, shown, &interrupted) {
            Ok(step) if step.partial.is_some() => {
                steps.push((rate, step));
                break;
            }
            Ok(mut step) => {
                judge::judge(&mut step, &bounds);
                search.found(rate, step.passed);
                steps.push((rate, step));
            }
            // What was found before is kept.
            Err(error) if !steps.is_empty() => {
                partial = Some(format!("not all steps were made: {error:#}"));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    steps.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let knee = knee(&steps, bounds);
    let steps = steps.into_iter().map(|(_, step)| step).collect();
    let report = Report::of_knee(started, steps, partial, knee);
    commands::tell(&report, common)?;
    Ok(report.passed)
}

/// Messages per second of all publishers when they begin.
pub(crate) fn rate_of(scenario: &Scenario) -> f64 {
    scenario.publishers.iter().map(|group| group.rate).sum()
}

/// All publishers together publish `rate`, in the proportions that they have; none of them changes it on the way.
fn set_rate(scenario: &mut Scenario, rate: f64) {
    let all = rate_of(scenario);
    for group in &mut scenario.publishers {
        group.rate *= rate / all;
        group.ramp_to = None;
    }
}

/// What the steps say, which are in the order of their rates.
fn knee(steps: &[(f64, Run)], bounds: KneeBounds) -> Knee {
    let held = steps.iter().rposition(|(_, step)| step.passed);
    let held = held.map(|at| {
        let (rate, step) = &steps[at];
        KneeHeld {
            run: at,
            rate: *rate,
            delivered_per_second: step.delivered_per_second,
            cpu_us_per_delivery: step.server.as_ref().and_then(|server| server.cpu_us_per_delivery),
        }
    });
    let broke = steps.iter().position(|(_, step)| !step.passed && step.partial.is_none());
    let broke = broke.map(|at| KneeBroke { run: at, why: steps[at].1.problems.join("; ") });
    Knee { bounds, held, broke }
}

impl Options {
    /// What each step runs, or why there is no knee of it.
    fn scenario(&self) -> Result<Scenario, Refused> {
        let scenario = match &self.scenario {
            Some(name) => crate::scenario::load(name)?,
            None => {
                let quick = self.flags.scenario().map_err(Refused)?;
                Scenario { name: "knee".to_owned(), title: "Steps made of flags".to_owned(), ..quick }
            }
        };
        let is_positive = |number: f64| number > 0.0 && number.is_finite();
        let rule = |holds: bool, text: String| if holds { Ok(()) } else { Err(Refused(text)) };
        let name = &scenario.name;
        let recorded = scenario.publishers.iter().any(|group| group.recording.is_some());
        rule(!recorded, format!("{name} publishes a recording, whose rate cannot be raised"))?;
        rule(
            is_positive(rate_of(&scenario)),
            format!("{name} publishes nothing, so there is no rate to raise"),
        )?;
        rule(scenario.subscribers() > 0, format!("{name} has no subscribers"))?;
        rule(self.from.is_none_or(is_positive), "--from must be above 0".to_owned())?;
        rule(self.factor > 1.0 && self.factor.is_finite(), "--factor must be above 1".to_owned())?;
        rule(self.steps_max > 0, "--steps-max must be at least 1".to_owned())?;
        rule(!self.p99.0.is_zero(), "--p99 must be above 0".to_owned())?;
        Ok(scenario)
    }
}
