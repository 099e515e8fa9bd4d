//! Up to where a server kept to its bounds, of runs with a growing rate; and the table of its steps.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Report, Run};
use crate::units::{grouped, micros};

/// Columns: the number of the step, figures to the right, and the result, which is as long as it is.
const HEADS: [&str; 8] =
    ["step", "messages/s", "deliveries/s", "p50", "p99", "lost", "cpu/delivery", "result"];
const WIDTHS: [usize; 7] = [4, 10, 12, 10, 10, 8, 12];

/// What the steps found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Knee {
    pub(crate) bounds: KneeBounds,
    pub(crate) held: Option<KneeHeld>,
    pub(crate) broke: Option<KneeBroke>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KneeBounds {
    pub(crate) p99_us: f64,
    pub(crate) lost: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KneeHeld {
    pub(crate) run: usize,
    pub(crate) rate: f64,
    pub(crate) delivered_per_second: f64,
    pub(crate) cpu_us_per_delivery: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KneeBroke {
    pub(crate) run: usize,
    pub(crate) why: String,
}

impl Report {
    /// For people: a row for each step, and where the knee is.
    pub(super) fn knee_text(&self, knee: &Knee) -> String {
        let Knee { bounds, held, broke } = knee;
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("a String takes it");
        if let Some(run) = self.runs.first() {
            line(format!("{:<12} {}", "first step", run.what()));
            line(format!("{:<12} {}, {}", "target", run.target.server, run.target.url));
        }
        let lost = grouped(bounds.lost as f64);
        line(format!("{:<12} p99 ≤ {}, lost ≤ {lost}\n", "bounds", micros(bounds.p99_us)));
        line(columns(&HEADS.map(str::to_owned)));
        self.runs.iter().enumerate().for_each(|(at, run)| line(row(at, run)));
        line(String::new());
        let held = match held {
            Some(held) => format!(
                "{} messages/s, {} deliveries/s{} (step {})",
                grouped(held.rate),
                grouped(held.delivered_per_second),
                match held.cpu_us_per_delivery {
                    Some(us) => format!(" at {} of the server's CPU each", micros(us)),
                    None => String::new(),
                },
                held.run + 1
            ),
            None => "no step: begin lower (--from)".to_owned(),
        };
        line(format!("{:<12} {held}", "held"));
        let broke = match broke {
            Some(broke) => format!("{} (step {})", broke.why, broke.run + 1),
            None => "no step: the knee is above (--steps-max, --factor)".to_owned(),
        };
        line(format!("{:<12} {broke}", "broke"));
        let result = match (self.passed, &self.partial) {
            (true, _) => "passed".to_owned(),
            (false, Some(partial)) => format!("FAILED: {partial}"),
            (false, None) => "FAILED: no step held".to_owned(),
        };
        line(format!("{:<12} {result}", "result"));
        text
    }
}

fn row(at: usize, run: &Run) -> String {
    let known = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), micros);
    let latency = Some(&run.latency_us).filter(|latency| latency.count > 0);
    let server = run.server.as_ref().and_then(|server| server.cpu_us_per_delivery);
    let result = match &run.partial {
        Some(partial) => format!("partial: {partial}"),
        None if run.passed && run.generator.was_bottleneck => "held, generator busy".to_owned(),
        None if run.passed => "held".to_owned(),
        // All of the lowest one's stand below the table.
        None => format!("broke: {}", run.problems.first().map_or("", String::as_str)),
    };
    columns(&[
        (at + 1).to_string(),
        grouped(run.publish.asked_per_second),
        grouped(run.delivered_per_second),
        known(latency.map(|latency| latency.p50)),
        known(latency.map(|latency| latency.p99)),
        grouped(run.delivery.lost as f64),
        known(server),
        result,
    ])
}

fn columns(cells: &[String; 8]) -> String {
    let figures: String = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}  ")).collect();
    figures + &cells[WIDTHS.len()]
}
