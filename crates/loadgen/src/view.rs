//! How a run goes, on standard error: a small block that is redrawn in place on a terminal, else a line now and then.
//!
//! The cursor is hidden only within the one write that redraws, and rests at the start of the line below the block. So
//! whatever ends the program leaves a cursor that can be seen, and what is printed next stands below. After a panic
//! nothing is redrawn: its message stays.

use std::collections::VecDeque;
use std::env;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use block::{Line, SAMPLES_MAX};

mod block;

const REDRAWN_EVERY: Duration = Duration::from_millis(250);
const PRINTED_EVERY: Duration = Duration::from_secs(2);
/// Of a terminal that does not tell its size: columns and rows.
const SIZE_UNKNOWN: (usize, usize) = (80, 24);

/// Some thread panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// What there is to tell at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment<'a> {
    /// Which run it is, such as `ticker, 2 of 5`.
    pub(crate) run: &'a str,
    pub(crate) stage: &'a str,
    /// The part of the stage that is over, of 1.
    pub(crate) done: f64,
    pub(crate) asked: u64,
    pub(crate) connected: u64,
    pub(crate) published_per_second: f64,
    pub(crate) delivered_per_second: f64,
    /// p50 and p99 since the last moment, in microseconds; none if nothing came.
    pub(crate) latency_us: Option<(f64, f64)>,
    pub(crate) lost: u64,
    /// Gaps that the server announced, if they are counted.
    pub(crate) gaps: Option<u64>,
    pub(crate) server: Option<Use>,
    pub(crate) generator: Option<Use>,
    /// One of the generator's threads has no time left.
    pub(crate) generator_is_busy: bool,
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// Of one core.
    pub(crate) cpu_share: f64,
    pub(crate) resident_bytes: u64,
}

/// Messages per second at the last moments, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    published: VecDeque<f64>,
    delivered: VecDeque<f64>,
}

#[derive(Debug)]
pub(crate) struct View {
    terminal: bool,
    coloured: bool,
    shown: Instant,
    rates: Rates,
    /// The widths of the lines that stand on the terminal.
    standing: Vec<usize>,
}

impl View {
    pub(crate) fn new() -> Self {
        let terminal =
            std::io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb");
        if terminal {
            watch_for_panics();
        }
        Self {
            terminal,
            coloured: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            shown: Instant::now(),
            rates: Rates::default(),
            standing: Vec::new(),
        }
    }

    /// The time since something was shown, if it is time to show something.
    pub(crate) fn due(&self) -> Option<Duration> {
        let passed = self.shown.elapsed();
        (passed >= if self.terminal { REDRAWN_EVERY } else { PRINTED_EVERY }).then_some(passed)
    }

    pub(crate) fn show(&mut self, moment: &Moment<'_>) {
        self.shown = Instant::now();
        if !self.terminal {
            eprintln!("{}", block::plain(moment));
            return;
        }
        self.rates.add(moment);
        let (columns, rows) = size();
        // The last column stays free: some terminals go on to the next line from it. So does the cursor's line.
        let lines = block::lines(moment, &self.rates, columns.saturating_sub(1), rows.saturating_sub(1));
        self.draw(&lines, columns);
    }

    /// Leaves the terminal as it was, for what follows.
    pub(crate) fn clear(&mut self) {
        if self.terminal {
            self.draw(&[], size().0);
        }
    }

    fn draw(&mut self, lines: &[Line], columns: usize) {
        if PANICKED.load(Relaxed) {
            return;
        }
        let text = redrawn(&self.standing, lines, columns, self.coloured);
        self.standing = lines.iter().map(Line::width).collect();
        // Without a terminal to draw on there is nothing to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Rates {
    fn add(&mut self, moment: &Moment<'_>) {
        let new = [moment.published_per_second, moment.delivered_per_second];
        for (rates, rate) in [&mut self.published, &mut self.delivered].into_iter().zip(new) {
            if rates.len() == SAMPLES_MAX {
                rates.pop_front();
            }
            rates.push_back(rate);
        }
    }
}

/// What is written to replace the `standing` lines by `lines`.
///
/// A line that has become wider than the terminal takes several rows by now.
fn redrawn(standing: &[usize], lines: &[Line], columns: usize, coloured: bool) -> String {
    let rows: usize = standing.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
    let mut text = String::from("\x1b[?25l\r");
    if rows > 0 {
        text += &format!("\x1b[{rows}A");
    }
    for line in lines {
        text += &line.painted(coloured);
        text += "\x1b[K\r\n";
    }
    text + "\x1b[J\x1b[?25h"
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE_UNKNOWN,
    }
}

fn watch_for_panics() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Relaxed);
            before(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_the_place_of_the_one_before() {
        let check = |standing: &[usize], columns, up: &str| {
            let text = redrawn(standing, &[Line::plain("a"), Line::plain("b")], columns, false);
            assert_eq!(text, format!("\x1b[?25l\r{up}a\x1b[K\r\nb\x1b[K\r\n\x1b[J\x1b[?25h"));
        };
        check(&[], 80, "");
        check(&[10, 79, 0], 80, "\x1b[3A");
        // The terminal became narrower: 10, 79 and 0 columns take 1, 2 and 1 rows.
        check(&[10, 79, 0], 40, "\x1b[4A");
        assert_eq!(redrawn(&[10], &[], 80, false), "\x1b[?25l\r\x1b[1A\x1b[J\x1b[?25h");
    }

    #[test]
    fn only_the_last_rates_are_kept() {
        let mut rates = Rates::default();
        for at in 0..100 {
            rates.add(&Moment { published_per_second: f64::from(at), ..Moment::default() });
        }
        assert_eq!((rates.published.len(), rates.published[0], rates.published[59]), (60, 40.0, 99.0));
    }
}
