//! What the commands do: read what is to be run, run it, and tell what was found.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;

use crate::adapter::Adapter;
use crate::args::{Common, RunScenarios};
use crate::reader::Reading;
use crate::recording::Recorded;
use crate::report::{self, Report, page};
use crate::run::{self, Against};
use crate::scenario::{self, Refused, Scenario, Span};

/// Runs scenarios by their names; `false` if something was lost or went wrong.
pub(crate) fn run_scenarios(options: &RunScenarios) -> anyhow::Result<bool> {
    let factors = [("--scale", options.scale), ("--time-scale", options.time_scale)];
    for (flag, factor) in factors {
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(Refused(format!("{flag} must be above 0")).into());
        }
    }
    let mut scenarios = Vec::new();
    for name in &options.scenarios {
        let mut scenario = scenario::load(name)?;
        if options.scale != 1.0 {
            scenario.scale(options.scale);
        }
        if options.time_scale != 1.0 {
            scenario.scale_time(options.time_scale);
        }
        scenario.threads = options.threads.unwrap_or(scenario.threads);
        scenario.check().map_err(|problem| Refused(format!("{name}: {problem}")))?;
        scenarios.push(scenario);
    }
    run(&options.common, scenarios)
}

/// Runs scenarios one after another, and reports.
pub(crate) fn run(common: &Common, mut scenarios: Vec<Scenario>) -> anyhow::Result<bool> {
    let against = against(common)?;
    let mut recordings = Vec::new();
    for scenario in &mut scenarios {
        let recorded = recording(scenario)?;
        scenario.check().map_err(|problem| Refused(format!("{}: {problem}", scenario.name)))?;
        can_run(&against.adapter, scenario)?;
        recordings.push(recorded);
    }
    let interrupted = run::interrupt_flag()?;
    let started = report::now();
    let (mut runs, mut partial) = (Vec::new(), None);
    let all = scenarios.len();
    for (scenario, recorded) in scenarios.iter().zip(recordings) {
        let shown = match all {
            1 => scenario.name.clone(),
            _ => format!("{}, {} of {all}", scenario.name, runs.len() + 1),
        };
        match run::run(scenario, recorded, &against, shown, &interrupted) {
            Ok(run) => {
                let ends = run.partial.is_some() || interrupted.load(Relaxed);
                runs.push(run);
                if ends && runs.len() < all {
                    partial = Some(format!("not all runs were made: {} of {all}", runs.len()));
                }
                if ends {
                    break;
                }
            }
            // What was found before is kept.
            Err(error) if !runs.is_empty() => {
                partial = Some(format!("not all runs were made: {error:#}"));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let report = Report::new(started, runs, partial);
    tell(&report, common)?;
    Ok(report.passed)
}

/// The server that the command line names, and how it is spoken to.
pub(crate) fn against(common: &Common) -> Result<Against, Refused> {
    let mut adapter = match &common.adapter {
        Some(file) => Adapter::load(file)?,
        None => Adapter::fanfare(),
    };
    if let Some(token) = &common.token {
        adapter.authorize(token).map_err(Refused)?;
    }
    Ok(Against {
        url: common.url.clone(),
        adapter,
        publish: common.publish,
        pids: common.pids.clone(),
        reader: Reading { kind: common.reader, acks: common.acks },
    })
}

/// The recording that a scenario names, and whose topics are then the scenario's.
fn recording(scenario: &mut Scenario) -> Result<Option<Arc<Recorded>>, Refused> {
    let Some(recording) = scenario.publishers.iter().find_map(|group| group.recording.as_ref()) else {
        return Ok(None);
    };
    let recorded = Recorded::read(recording, &scenario.topics.prefix)?;
    scenario.topics.count = recorded.topics.len();
    if let Some(length_ns) = recorded.length_ns(recording.speed) {
        // The last message is due at its end.
        let length = Duration::from_nanos(length_ns) + Duration::from_secs(1);
        scenario.stages.window = scenario.stages.window.min(Span(length));
    }
    Ok(Some(Arc::new(recorded)))
}

/// Whether the adapter's server can take part in a scenario.
pub(crate) fn can_run(adapter: &Adapter, scenario: &Scenario) -> Result<(), Refused> {
    if let Some(why) = adapter.cannot.get(&scenario.name) {
        return Err(Refused(format!("{} cannot run {}: {why}", adapter.shown(), scenario.name)));
    }
    let Some(subscribe) = &adapter.subscribe else { return Ok(()) };
    let several = scenario.subscribers.iter().find(|group| group.topics_each > 1);
    match several {
        Some(group) if !subscribe.takes_several_topics() => Err(Refused(format!(
            "{} cannot run {}: subscribers {:?} have several topics each, and its adapter subscribes to one",
            adapter.shown(),
            scenario.name,
            group.name
        ))),
        _ => Ok(()),
    }
}

/// Prints the text, or the JSON in its place, and writes the JSON and the page. The text is there also when a file cannot be
/// written.
pub(crate) fn tell(report: &Report, common: &Common) -> anyhow::Result<()> {
    let json = common.json.as_deref();
    let text = match json {
        Some(file) if file == Path::new("-") => serde_json::to_string_pretty(report)? + "\n",
        _ => report.text(),
    };
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write the report")?;
    if let Some(file) = json.filter(|file| *file != Path::new("-")) {
        let contents = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(file, contents).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &common.report {
        let page = page::render(report)?;
        std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
