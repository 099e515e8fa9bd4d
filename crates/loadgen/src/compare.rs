//! `compare`: what got better and what worse from one report to another, or between the medians of several.
//!
//! Runs are the same if their scenario's name, their subscribers and their rate are. A difference below
//! [`SAME_WITHIN`] is called none: that is what runs on a quiet machine differ by.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::units::{bytes, digits, grouped, micros};
use side::{Key, Round, Side};

mod side;

const SAME_WITHIN: f64 = 0.02;

/// The options of a comparison.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Compare {
    /// The report to compare with, and the one to look at; with --with, all of these are to compare with
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// The reports to look at; of several on a side, such as rounds of the same, the medians are compared
    #[arg(long, num_args = 1.., value_name = "REPORT")]
    with: Vec<PathBuf>,
    /// Exit 1 if CPU per delivery or p99 is more than so many times what it was
    #[arg(long, value_name = "RATIO")]
    fail_above: Option<f64>,
    /// The comparison as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Comparison {
    /// No bound is passed.
    passed: bool,
    exceeded: Vec<String>,
    /// What to think of before the figures are believed.
    cautions: Vec<String>,
    runs: Vec<Compared>,
    only_before: Vec<String>,
    only_after: Vec<String>,
}

/// A run that both sides have.
#[derive(Debug, Serialize)]
struct Compared {
    run: String,
    rounds: [usize; 2],
    figures: Vec<Change>,
    cautions: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    figure: &'static str,
    before: Option<f64>,
    after: Option<f64>,
    /// How many times `before` is in `after`; not if that was nothing.
    ratio: Option<f64>,
    verdict: Verdict,
    #[serde(skip)]
    shown: fn(f64) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Better,
    Same,
    Worse,
    /// It was not measured on one of the sides.
    Unknown,
}

/// What is compared.
struct Figure {
    name: &'static str,
    more_is_better: bool,
    /// `--fail-above` looks at it.
    bounded: bool,
    of: fn(&Round) -> Option<f64>,
    shown: fn(f64) -> String,
}

const FIGURES: [Figure; 7] = [
    Figure {
        name: "delivered per second",
        more_is_better: true,
        bounded: false,
        of: |round| Some(round.delivered_per_second),
        shown: grouped,
    },
    Figure { name: "p50", more_is_better: false, bounded: false, of: |round| round.p50_us, shown: micros },
    Figure { name: "p99", more_is_better: false, bounded: true, of: |round| round.p99_us, shown: micros },
    Figure {
        name: "CPU per delivery",
        more_is_better: false,
        bounded: true,
        of: |round| round.cpu_us_per_delivery,
        shown: micros,
    },
    Figure {
        name: "memory per connection",
        more_is_better: false,
        bounded: false,
        of: |round| round.resident_bytes_per_connection,
        shown: bytes,
    },
    Figure {
        name: "kernel memory per connection",
        more_is_better: false,
        bounded: false,
        of: |round| round.kernel_bytes_per_connection,
        shown: bytes,
    },
    Figure {
        name: "lost",
        more_is_better: false,
        bounded: false,
        of: |round| round.lost_share,
        shown: |share| format!("{}%", digits(share * 100.0)),
    },
];

impl Compare {
    /// What is wrong with the options together, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.fail_above.is_some_and(|ratio| !ratio.is_finite() || ratio <= 0.0) {
            return Err("--fail-above must be above 0".to_owned());
        }
        if self.with.is_empty() && self.reports.len() != 2 {
            return Err("two reports are compared, or several and those after --with".to_owned());
        }
        Ok(())
    }
}

/// Compares and tells; `false` if a bound is passed.
pub(crate) fn run(options: &Compare) -> anyhow::Result<bool> {
    let (before, after) = match &options.with[..] {
        [] => options.reports.split_at(1),
        with => (&options.reports[..], with),
    };
    let comparison = Comparison::new(&Side::read(before)?, &Side::read(after)?, options.fail_above)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", comparison.text());
    }
    Ok(comparison.passed)
}

impl Comparison {
    fn new(before: &Side, after: &Side, fail_above: Option<f64>) -> anyhow::Result<Self> {
        let mut cautions = Vec::new();
        if before.machines != after.machines {
            let machines =
                |side: &Side| side.machines.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
            cautions.push(format!("the machines differ: {}; now {}", machines(before), machines(after)));
        }
        cautions.extend(before.partial.iter().chain(&after.partial).cloned());
        let (mut runs, mut exceeded) = (Vec::new(), Vec::new());
        for (key, rounds) in &before.runs {
            let Some(now) = after.runs.get(key) else { continue };
            let run = Compared::new(key, rounds, now);
            if let Some(bound) = fail_above {
                exceeded.extend(run.past(bound));
            }
            runs.push(run);
        }
        anyhow::ensure!(
            !runs.is_empty(),
            "no run is in both: before {}; now {}",
            before.names(),
            after.names()
        );
        let only = |side: &Side, other: &Side| {
            side.runs
                .keys()
                .filter(|key| !other.runs.contains_key(key))
                .map(Key::to_string)
                .collect::<Vec<_>>()
        };
        Ok(Self {
            passed: exceeded.is_empty(),
            exceeded,
            cautions,
            runs,
            only_before: only(before, after),
            only_after: only(after, before),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: String| writeln!(text, "{words}").expect("a String takes it");
        for run in &self.runs {
            line(match run.rounds {
                [1, 1] => run.run.clone(),
                [before, after] => format!("{} (medians of {before} and {after})", run.run),
            });
            run.figures.iter().for_each(|change| line(change.text()));
            run.cautions.iter().for_each(|caution| line(format!("  caution: {caution}")));
            line(String::new());
        }
        self.cautions.iter().for_each(|caution| line(format!("caution: {caution}")));
        self.only_before.iter().for_each(|run| line(format!("only before: {run}")));
        self.only_after.iter().for_each(|run| line(format!("only now: {run}")));
        self.exceeded.iter().for_each(|words| line(format!("FAILED: {words}")));
        text
    }
}

impl Compared {
    fn new(key: &Key, before: &[Round], after: &[Round]) -> Self {
        Self {
            run: key.to_string(),
            rounds: [before.len(), after.len()],
            cautions: [servers(before, after), cautions("before", before), cautions("now", after)].concat(),
            figures: FIGURES
                .iter()
                .map(|figure| {
                    Change::new(
                        figure,
                        median(before.iter().filter_map(figure.of)),
                        median(after.iter().filter_map(figure.of)),
                    )
                })
                .collect(),
        }
    }

    /// What is more than `bound` times what it was. What is not measured any more is past every bound.
    fn past(&self, bound: f64) -> Vec<String> {
        let bounded = FIGURES.iter().zip(&self.figures).filter(|(figure, _)| figure.bounded);
        bounded
            .filter_map(|(_, change)| match (change.before, change.after, change.ratio) {
                (Some(_), None, _) => {
                    Some(format!("{}: {} is not measured any more", self.run, change.figure))
                }
                (_, _, Some(ratio)) if ratio > bound => Some(format!(
                    "{}: {} is {} times what it was, more than {bound}",
                    self.run,
                    change.figure,
                    digits(ratio)
                )),
                _ => None,
            })
            .collect()
    }
}

impl Change {
    fn new(figure: &Figure, before: Option<f64>, after: Option<f64>) -> Self {
        let both = before.zip(after);
        let ratio = both.filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before);
        let verdict = match (both, ratio) {
            (None, _) => Verdict::Unknown,
            (Some((before, after)), None) if before == after => Verdict::Same,
            (_, Some(ratio)) if (ratio - 1.0).abs() <= SAME_WITHIN => Verdict::Same,
            // From nothing to something there is no ratio, but it is more.
            (_, ratio) if (ratio.unwrap_or(f64::INFINITY) > 1.0) == figure.more_is_better => Verdict::Better,
            _ => Verdict::Worse,
        };
        Self { figure: figure.name, before, after, ratio, verdict, shown: figure.shown }
    }

    fn text(&self) -> String {
        let shown = |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), self.shown);
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("x {ratio:.3}"));
        let verdict = match self.verdict {
            Verdict::Better => "better",
            Verdict::Same => "the same",
            Verdict::Worse => "WORSE",
            Verdict::Unknown => "",
        };
        let text = format!(
            "  {:<29} {:>12} -> {:<12}  {ratio:<8}  {verdict}",
            self.figure,
            shown(self.before),
            shown(self.after)
        );
        text.trim_end().to_owned()
    }
}

/// That the rounds of one side had other servers than those of the other, if so.
fn servers(before: &[Round], after: &[Round]) -> Vec<String> {
    let names = |rounds: &[Round]| {
        let names: BTreeSet<_> = rounds.iter().map(|round| round.server.as_str()).collect();
        Vec::from_iter(names).join(" and ")
    };
    let (before, after) = (names(before), names(after));
    if before == after { Vec::new() } else { vec![format!("the servers differ: {before}; now {after}")] }
}

/// What to know of the rounds of one side: each thing once, however many of them have it.
fn cautions(when: &str, rounds: &[Round]) -> Vec<String> {
    let partial = rounds.iter().find_map(|round| round.partial.as_ref());
    let failed = rounds.iter().find(|round| !round.problems.is_empty());
    let busy = rounds.iter().any(|round| round.was_bottleneck);
    [
        partial.map(|why| format!("{when}, a run is partial: {why}")),
        failed.map(|round| format!("{when}, a run failed: {}", round.problems.join(", "))),
        busy.then(|| format!("{when}, the generator was busy: these are lower bounds")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { *middle } else { (values[values.len() / 2 - 1] + middle) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_count_is_between_the_middle_two() {
        let check = |values: &[f64], expect| assert_eq!(median(values.iter().copied()), expect);
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[3.0, 1.0, 100.0], Some(3.0));
        check(&[4.0, 1.0, 2.0, 100.0], Some(3.0));
    }

    #[test]
    fn more_is_better_of_what_is_delivered_and_worse_of_what_it_costs() {
        let [delivered, p50, .., lost] = &FIGURES;
        let check = |figure: &Figure, before: f64, after: f64, expect| {
            assert_eq!(Change::new(figure, Some(before), Some(after)).verdict, expect, "{before} {after}");
        };
        check(delivered, 100.0, 110.0, Verdict::Better);
        check(delivered, 100.0, 90.0, Verdict::Worse);
        check(delivered, 0.0, 90.0, Verdict::Better);
        check(p50, 100.0, 110.0, Verdict::Worse);
        check(p50, 100.0, 90.0, Verdict::Better);
        check(p50, 100.0, 101.9, Verdict::Same);
        check(lost, 0.0, 0.0, Verdict::Same);
        check(lost, 0.0, 0.1, Verdict::Worse);
        check(lost, 0.1, 0.0, Verdict::Better);
        assert_eq!(Change::new(p50, None, Some(1.0)).verdict, Verdict::Unknown);
    }
}
