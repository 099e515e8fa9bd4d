//! Which rate is next: up by a factor until one breaks, then halves of what is between.

/// A search that is told of each rate whether it held.
#[derive(Debug)]
pub(super) struct Search {
    from: f64,
    factor: f64,
    steps_left: usize,
    refine_left: usize,
    /// The highest rate that held, and the lowest that did not.
    held: Option<f64>,
    broke: Option<f64>,
}

impl Search {
    /// At most `steps_max` rates, of which at most `refine` come after the first that breaks.
    pub(super) fn new(from: f64, factor: f64, steps_max: usize, refine: usize) -> Self {
        Self { from, factor, steps_left: steps_max, refine_left: refine, held: None, broke: None }
    }

    /// The rate to try; none at the end. Halves are those of the factor between the two: the steps are even on its scale.
    pub(super) fn next(&self) -> Option<f64> {
        let rate = match (self.held, self.broke) {
            (None, None) => self.from,
            (Some(held), None) => held * self.factor,
            (Some(held), Some(broke)) if self.refine_left > 0 => (held * broke).sqrt(),
            // What is below the first is for another search to find.
            _ => return None,
        };
        // Messages are counted in whole ones, where there are enough of them.
        let rate = if rate >= 100.0 { rate.round() } else { rate };
        let is_new = self.held != Some(rate) && self.broke != Some(rate);
        (self.steps_left > 0 && is_new).then_some(rate)
    }

    pub(super) fn found(&mut self, rate: f64, held: bool) {
        self.steps_left -= 1;
        if self.broke.is_some() {
            self.refine_left -= 1;
        }
        *if held { &mut self.held } else { &mut self.broke } = Some(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are tried on a server that holds up to `knee`.
    fn tried(mut search: Search, knee: f64) -> Vec<f64> {
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.found(rate, rate <= knee);
        }
        rates
    }

    #[test]
    fn the_rate_rises_until_it_breaks_and_then_closes_in() {
        let check = |search: Search, knee: f64, expect: &[f64]| assert_eq!(tried(search, knee), expect);
        check(Search::new(100.0, 2.0, 12, 0), 500.0, &[100.0, 200.0, 400.0, 800.0]);
        check(Search::new(100.0, 2.0, 12, 2), 500.0, &[100.0, 200.0, 400.0, 800.0, 566.0, 476.0]);
        check(Search::new(100.0, 2.0, 5, 2), 500.0, &[100.0, 200.0, 400.0, 800.0, 566.0]);
        check(Search::new(100.0, 2.0, 3, 2), 1e9, &[100.0, 200.0, 400.0]);
        check(Search::new(100.0, 2.0, 12, 2), 50.0, &[100.0]);
        check(Search::new(1.5, 2.0, 2, 2), 50.0, &[1.5, 3.0]);
        // Nothing is between two whole numbers.
        check(Search::new(100.0, 1.01, 12, 9), 100.0, &[100.0, 101.0]);
        // Nor is there an end of rates that are too small to be rounded up.
        check(Search::new(100.0, 1.001, 12, 9), 500.0, &[100.0]);
    }
}
