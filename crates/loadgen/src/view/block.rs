//! What a moment looks like: the lines of the block, as many and as wide as there is room for.

use super::{Moment, Rates, Use};
use crate::units::{bytes, grouped, micros};

pub(super) const SAMPLES_MAX: usize = 60;
const BAR_CELLS: usize = 32;
const LABEL_COLUMNS: usize = 12;
const RATE_COLUMNS: usize = 14;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One line: pieces of text, each in one tone.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Vec<(Tone, String)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Strong,
    Dim,
    Accent,
    Bad,
    Warning,
}

/// The line that stands for a moment where nothing can be redrawn.
pub(super) fn plain(moment: &Moment<'_>) -> String {
    let (p50_us, p99_us) = moment.latency_us.unwrap_or_default();
    format!(
        "{:3.0}% {:<9} connected {}  in {:.0}/s  out {:.0}/s  p50 {:.2} ms  p99 {:.2} ms  lost {}  ({})",
        moment.done.clamp(0.0, 1.0) * 100.0,
        moment.stage,
        moment.connected,
        moment.published_per_second,
        moment.delivered_per_second,
        p50_us / 1e3,
        p99_us / 1e3,
        moment.lost,
        moment.run,
    )
}

/// At most `rows` lines of at most `columns`. Where there are not rows for all, what matters least is left out.
pub(super) fn lines(moment: &Moment<'_>, rates: &Rates, columns: usize, rows: usize) -> Vec<Line> {
    // The number says which goes first where there is little room: the greatest.
    let mut lines = vec![
        (6, Line::plain("").with(Tone::Strong, moment.run)),
        (0, stage(moment, columns)),
        (3, connected(moment)),
        (4, rate("published", moment.published_per_second, rates.published.iter(), columns)),
        (1, rate("delivered", moment.delivered_per_second, rates.delivered.iter(), columns)),
        (2, latency(moment)),
        (1, missing(moment)),
        (4, used("server", moment.server, false)),
        (5, used("generator", moment.generator, moment.generator_is_busy)),
    ];
    while lines.len() > rows.max(1) {
        let (least, _) = lines.iter().enumerate().max_by_key(|(_, (rank, _))| *rank).expect("there are some");
        lines.remove(least);
    }
    lines.into_iter().map(|(_, line)| line.cut(columns)).collect()
}

fn stage(moment: &Moment<'_>, columns: usize) -> Line {
    let done = moment.done.clamp(0.0, 1.0);
    let cells = BAR_CELLS.min(columns.saturating_sub(LABEL_COLUMNS + 5));
    let full = (done * cells as f64) as usize;
    Line::labelled(moment.stage)
        .with(Tone::Accent, &"━".repeat(full))
        .with(Tone::Dim, &"╌".repeat(cells - full))
        .with(Tone::Plain, &format!(" {:3.0}%", done * 100.0))
}

fn connected(moment: &Moment<'_>) -> Line {
    let all = if moment.connected < moment.asked {
        format!(" of {}", grouped(moment.asked as f64))
    } else {
        String::new()
    };
    Line::labelled("connected").with(Tone::Plain, &grouped(moment.connected as f64)).with(Tone::Dim, &all)
}

fn rate<'a>(
    label: &str,
    per_second: f64,
    history: impl DoubleEndedIterator<Item = &'a f64> + Clone,
    columns: usize,
) -> Line {
    let room = columns.saturating_sub(LABEL_COLUMNS + RATE_COLUMNS).min(SAMPLES_MAX);
    let mut newest: Vec<_> = history.rev().take(room).copied().collect();
    newest.reverse();
    let now = format!("{:<RATE_COLUMNS$}", format!("{}/s", grouped(per_second)));
    Line::labelled(label).with(Tone::Strong, &now).with(Tone::Accent, &sparks(&newest))
}

/// A bar for each value, from nothing to the greatest.
fn sparks(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let height = |value: f64| if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
    values.iter().map(|&value| SPARKS[height(value).min(7)]).collect()
}

fn latency(moment: &Moment<'_>) -> Line {
    let line = Line::labelled("latency");
    match moment.latency_us {
        Some((p50_us, p99_us)) => line
            .with(Tone::Dim, "p50 ")
            .with(Tone::Plain, &format!("{:<10}", micros(p50_us)))
            .with(Tone::Dim, "p99 ")
            .with(Tone::Plain, &micros(p99_us)),
        None => line.with(Tone::Dim, "–"),
    }
}

fn missing(moment: &Moment<'_>) -> Line {
    let tone = if moment.lost > 0 { Tone::Bad } else { Tone::Plain };
    let line = Line::labelled("lost").with(tone, &grouped(moment.lost as f64));
    match moment.gaps {
        Some(gaps) => line.with(Tone::Dim, "   gaps ").with(Tone::Plain, &grouped(gaps as f64)),
        None => line,
    }
}

fn used(label: &str, used: Option<Use>, busy: bool) -> Line {
    let line = Line::labelled(label);
    let line = match used {
        Some(Use { cpu_share, resident_bytes }) => line
            .with(Tone::Plain, &format!("{:.0}%", cpu_share * 100.0))
            .with(Tone::Dim, " of a core, ")
            .with(Tone::Plain, &bytes(resident_bytes as f64)),
        None => line.with(Tone::Dim, "not watched"),
    };
    if busy { line.with(Tone::Warning, "  busy: lower bounds") } else { line }
}

impl Line {
    pub(super) fn plain(text: &str) -> Self {
        Self::default().with(Tone::Plain, text)
    }

    fn labelled(label: &str) -> Self {
        Self::default().with(Tone::Dim, &format!("{label:<LABEL_COLUMNS$}"))
    }

    /// Text from outside may have characters that move the cursor: they are left out.
    fn with(mut self, tone: Tone, text: &str) -> Self {
        self.0.push((tone, text.chars().filter(|character| !character.is_control()).collect()));
        self
    }

    /// In columns: all that is shown is one wide.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    fn cut(mut self, columns: usize) -> Self {
        let mut room = columns;
        for (_, text) in &mut self.0 {
            *text = text.chars().take(room).collect();
            room -= text.chars().count();
        }
        self
    }

    /// With the terminal's escapes for the tones.
    pub(super) fn painted(&self, coloured: bool) -> String {
        let mut painted = String::new();
        for (tone, text) in &self.0 {
            match tone.code().filter(|_| coloured && !text.is_empty()) {
                Some(code) => painted += &format!("\x1b[{code}m{text}\x1b[0m"),
                None => painted += text,
            }
        }
        painted
    }
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Dim => Some("2"),
            Self::Accent => Some("36"),
            Self::Bad => Some("1;31"),
            Self::Warning => Some("33"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment<'static> {
        let used = |cpu_share| Some(Use { cpu_share, resident_bytes: 19_500_000 });
        Moment {
            run: "ticker, 2 of 5",
            stage: "window",
            done: 0.5,
            asked: 5_000,
            connected: 4_990,
            published_per_second: 200.0,
            delivered_per_second: 125_400.0,
            latency_us: Some((2_430.0, 8_860.0)),
            lost: 3,
            gaps: Some(1),
            server: used(0.34),
            generator: used(0.97),
            generator_is_busy: true,
        }
    }

    fn block(columns: usize, rows: usize) -> Vec<String> {
        let mut rates = Rates::default();
        (0..100).for_each(|_| rates.add(&moment()));
        lines(&moment(), &rates, columns, rows).iter().map(|line| line.painted(false)).collect()
    }

    #[test]
    fn a_block_says_how_it_goes() {
        let bars = "█".repeat(33);
        let expect = [
            "ticker, 2 of 5".to_owned(),
            format!("window      {}{}  50%", "━".repeat(16), "╌".repeat(16)),
            "connected   4,990 of 5,000".to_owned(),
            format!("published   200/s         {bars}"),
            format!("delivered   125,400/s     {bars}"),
            "latency     p50 2.43 ms   p99 8.86 ms".to_owned(),
            "lost        3   gaps 1".to_owned(),
            "server      34% of a core, 18.6 MiB".to_owned(),
            "generator   97% of a core, 18.6 MiB  busy: lower bounds".to_owned(),
        ];
        assert_eq!(block(59, 23), expect);
    }

    #[test]
    fn a_block_never_exceeds_the_room_there_is() {
        for columns in 0..90 {
            for rows in 0..12 {
                let lines = block(columns, rows);
                assert_eq!(lines.len(), rows.clamp(1, 9));
                assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns} {lines:?}");
            }
        }
        let first = |rows| block(80, rows).into_iter().map(|line| line[..6].to_owned()).collect::<Vec<_>>();
        assert_eq!(first(1), ["window"]);
        assert_eq!(first(3), ["window", "delive", "lost  "]);
        assert_eq!(first(4), ["window", "delive", "latenc", "lost  "]);
    }

    #[test]
    fn without_colours_there_are_no_escapes_and_texts_bring_none() {
        let hostile = Moment { run: "a\x1b[2Jb\r\n", ..moment() };
        let lines = lines(&hostile, &Rates::default(), 80, 20);
        assert_eq!(lines[0].painted(false), "a[2Jb");
        assert!(!lines.iter().any(|line| line.painted(false).contains('\x1b')));
        assert!(lines[6].painted(true).contains("\x1b[1;31m3\x1b[0m"));
    }

    #[test]
    fn sparks_reach_from_nothing_to_the_greatest() {
        let check = |values: &[f64], expect| assert_eq!(sparks(values), expect, "{values:?}");
        check(&[], "");
        check(&[0.0, 0.0], "▁▁");
        check(&[0.0, 1.0, 2.0, 4.0], "▁▃▅█");
        check(&[5.0], "█");
    }
}
