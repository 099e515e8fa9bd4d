//! A market that never was: symbols, prices that wander, and some traded far more than others.
//!
//! Prices are whole numbers of the symbol's smallest step. A trade moves the price at random by up to 0.1% and pulls it
//! towards the price it started at, so it neither dies nor runs away. The symbol of a trade is drawn by Zipf's law: the
//! second is traded half as often as the first, the third a third as often.
//!
//! # Owner        one thread; the load generator and the demo each make their own
//! # Invariants   the same symbols and seed give the same trades on every machine; `0 < bid < ask`

#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write;

mod random;
use random::Random;

/// Name, starting price in its smallest step, and digits after the point.
const LISTED: [(&str, u64, u8); 24] = [
    ("BTC-USD", 6_400_000, 2),
    ("ETH-USD", 310_000, 2),
    ("SOL-USD", 148_500, 3),
    ("XRP-USD", 52_130, 5),
    ("BNB-USD", 582_100, 3),
    ("DOGE-USD", 12_345, 5),
    ("ADA-USD", 45_120, 5),
    ("AVAX-USD", 27_310, 3),
    ("LINK-USD", 13_870, 3),
    ("LTC-USD", 71_420, 3),
    ("BCH-USD", 388_600, 3),
    ("DOT-USD", 61_180, 4),
    ("UNI-USD", 79_300, 4),
    ("ATOM-USD", 68_450, 4),
    ("NEAR-USD", 52_710, 4),
    ("ETC-USD", 22_940, 3),
    ("XLM-USD", 9_870, 5),
    ("FIL-USD", 43_900, 4),
    ("AAVE-USD", 96_250, 3),
    ("ALGO-USD", 14_060, 5),
    ("BTC-EUR", 5_890_000, 2),
    ("ETH-EUR", 285_000, 2),
    ("ETH-BTC", 4_844, 5),
    ("SOL-EUR", 136_600, 3),
];

/// All symbols and the state of the random walk.
#[derive(Debug)]
pub struct Market {
    symbols: Vec<Symbol>,
    weights: Vec<f64>,
    /// Sum of the weights up to and including each symbol, for the draw.
    cumulative: Vec<f64>,
    random: Random,
}

#[derive(Debug)]
struct Symbol {
    name: String,
    decimals: u8,
    home: u64,
    last: u64,
    volume: u64,
}

/// One trade: what a ticker would publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick<'a> {
    /// The symbol's place in the market, from 0.
    pub index: usize,
    /// Its name.
    pub symbol: &'a str,
    /// The best price to sell at.
    pub bid: Decimal,
    /// The best price to buy at, always above `bid`.
    pub ask: Decimal,
    /// The price of this trade.
    pub last: Decimal,
    /// Traded since the market was made.
    pub volume: Decimal,
}

/// A decimal number that is written the way exchanges do, in a string and with all its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// The number in units of its last digit.
    pub units: u64,
    /// How many digits follow the point.
    pub decimals: u8,
}

impl Market {
    /// A market of `symbols` symbols (at least one): well-known names first, then generated ones.
    #[must_use]
    pub fn new(symbols: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let symbols: Vec<_> = (0..symbols.max(1)).map(|index| Symbol::listed(index, &mut random)).collect();
        let total: f64 = (1..=symbols.len()).map(|rank| 1.0 / rank as f64).sum();
        let weights: Vec<_> = (1..=symbols.len()).map(|rank| 1.0 / rank as f64 / total).collect();
        let cumulative = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Self { symbols, weights, cumulative, random }
    }

    /// The names, in the order of `Tick::index`.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = &str> {
        self.symbols.iter().map(|symbol| symbol.name.as_str())
    }

    /// The expected share of each symbol in the trades; the shares sum to 1.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The next trade, of a symbol drawn by its weight.
    pub fn tick(&mut self) -> Tick<'_> {
        let drawn = self.random.fraction();
        let index = self.cumulative.partition_point(|&sum| sum <= drawn).min(self.symbols.len() - 1);
        self.tick_of(index)
    }

    /// The next trade of one symbol.
    ///
    /// # Panics
    /// If there is no symbol `index`.
    pub fn tick_of(&mut self, index: usize) -> Tick<'_> {
        let symbol = &mut self.symbols[index];
        symbol.trade(&mut self.random);
        let half_spread = (symbol.last / 20_000).max(1);
        let price = |units| Decimal { units, decimals: symbol.decimals };
        Tick {
            index,
            symbol: &symbol.name,
            bid: price(symbol.last - half_spread),
            ask: price(symbol.last + half_spread),
            last: price(symbol.last),
            volume: Decimal { units: symbol.volume, decimals: 3 },
        }
    }
}

impl Symbol {
    fn listed(index: usize, random: &mut Random) -> Self {
        let (name, home, decimals) = match LISTED.get(index) {
            Some(&(name, home, decimals)) => (name.to_owned(), home, decimals),
            None => (format!("SYM{index:04}-USD"), 10_000 + random.below(90_000), 2 + random.below(4) as u8),
        };
        Self { name, decimals, home, last: home, volume: 0 }
    }

    fn trade(&mut self, random: &mut Random) {
        let reach = (self.last / 1_000).max(1);
        let up = self.last + random.below(2 * reach + 1);
        let pull = self.home.abs_diff(self.last) / 256;
        let moved = up.saturating_sub(reach);
        let pulled = if self.last > self.home { moved.saturating_sub(pull) } else { moved + pull };
        self.last = pulled.clamp(self.home / 4, self.home * 4);
        self.volume += 1 + random.below(5_000);
    }
}

impl Tick<'_> {
    /// Appends the trade as one JSON object on one line, prices as strings.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let Tick { symbol, bid, ask, last, volume, .. } = self;
        write!(
            out,
            r#"{{"symbol":"{symbol}","bid":"{bid}","ask":"{ask}","last":"{last}","volume":"{volume}"}}"#
        )
        .expect("a Vec takes every write");
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10_u64.pow(u32::from(self.decimals));
        write!(f, "{}.{:0width$}", self.units / scale, self.units % scale, width = usize::from(self.decimals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(symbols: usize, seed: u64, ticks: usize) -> Vec<u8> {
        let mut market = Market::new(symbols, seed);
        let mut out = Vec::new();
        (0..ticks).for_each(|_| market.tick().write_json(&mut out));
        out
    }

    #[test]
    fn the_same_seed_gives_the_same_trades() {
        assert_eq!(json_of(50, 7, 500), json_of(50, 7, 500));
        assert_ne!(json_of(50, 7, 500), json_of(50, 8, 500));
    }

    #[test]
    fn prices_keep_their_digits_and_stay_between_a_quarter_and_four_times_their_start() {
        let mut market = Market::new(60, 1);
        let homes: Vec<_> = market.symbols.iter().map(|symbol| symbol.home).collect();
        for _ in 0..200_000 {
            let tick = market.tick();
            let home = homes[tick.index];
            assert!(
                tick.bid.units > 0 && tick.bid.units < tick.last.units && tick.last.units < tick.ask.units
            );
            assert!((home / 4..=home * 4).contains(&tick.last.units), "{tick:?}");
            assert!((2..=5).contains(&tick.last.decimals));
        }
    }

    #[test]
    fn trades_follow_the_weights() {
        let mut market = Market::new(40, 3);
        let mut counts = [0_u32; 40];
        (0..100_000).for_each(|_| counts[market.tick().index] += 1);
        for (count, weight) in counts.iter().zip(market.weights()) {
            let share = f64::from(*count) / 100_000.0;
            assert!((share - weight).abs() < 0.01, "drawn {share}, expected {weight}");
        }
        assert!((market.weights().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn names_are_unique_and_go_on_beyond_the_list() {
        let market = Market::new(1_000, 1);
        let names: std::collections::HashSet<_> = market.symbols().collect();
        assert_eq!(names.len(), 1_000);
        assert!(names.contains("BTC-USD") && names.contains("SYM0042-USD"));
    }

    #[test]
    fn decimals_are_written_with_all_their_digits() {
        for (units, decimals, text) in [(6_400_010, 2, "64000.10"), (7, 5, "0.00007"), (12_345, 5, "0.12345")]
        {
            assert_eq!(Decimal { units, decimals }.to_string(), text);
        }
    }
}
