//! Whether a step held.

use crate::report::{KneeBounds, LOST, Publish, Run};
use crate::units::{grouped, micros};

/// Less than this part of the rate is another rate.
const ACHIEVED_MIN: f64 = 0.98;

/// Makes the problems of a whole run those of a step: what it broke. Losses within the bound are none.
pub(super) fn judge(step: &mut Run, bounds: &KneeBounds) {
    let mut problems = Vec::new();
    let p99_us = step.latency_us.p99;
    if step.latency_us.count == 0 {
        problems.push("nothing came by which to tell the latency".to_owned());
    } else if p99_us > bounds.p99_us {
        problems.push(format!("p99 {} > {}", micros(p99_us), micros(bounds.p99_us)));
    }
    let lost = step.delivery.lost;
    if lost > bounds.lost {
        problems.push(format!("lost {} > {}", grouped(lost as f64), grouped(bounds.lost as f64)));
    }
    problems.extend(not_sent_or_taken(&step.publish));
    problems.extend(step.problems.drain(..).filter(|problem| !problem.ends_with(LOST)));
    if !problems.is_empty() && step.generator.was_bottleneck {
        let why = step.generator.bottleneck.join(", ");
        problems.push(format!("the generator was the bottleneck ({why}), so the knee is a lower bound"));
    }
    step.passed = problems.is_empty();
    step.problems = problems;
}

/// Why the rate was not the one that was asked for.
fn not_sent_or_taken(publish: &Publish) -> Vec<String> {
    let mut problems = Vec::new();
    let (asked, achieved) = (publish.asked_per_second, publish.achieved_per_second);
    if achieved < asked * ACHIEVED_MIN {
        problems.push(format!("{} messages/s were sent of {}", grouped(achieved), grouped(asked)));
    }
    let unanswered = publish.sent.saturating_sub(publish.acknowledged);
    if unanswered > 0 {
        let others = publish.posts_by_status.iter().filter(|(status, _)| !(200..300).contains(*status));
        let others: Vec<_> = others
            .map(|(status, count)| format!(", {} posts with {status}", grouped(*count as f64)))
            .collect();
        problems.push(format!(
            "{} messages were not acknowledged{}",
            grouped(unanswered as f64),
            others.concat()
        ));
    }
    problems
}
