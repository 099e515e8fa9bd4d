//! Which outboxes pay when all of them together are past their bound: the largest.
//!
//! Outboxes are counted by size class, a power of two. Whoever knows the sums of all shards' classes can say from which
//! class on outboxes have to give way, without comparing them one by one.

/// How many classes there are: class `n` holds outboxes of `2^(n-1)` to `2^n - 1` bytes, class 0 the empty ones.
pub const CLASSES: usize = 40;

/// Bytes in outboxes, by size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClasses(pub [usize; CLASSES]);

impl Default for SizeClasses {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

/// The class of an outbox.
pub(crate) fn class(bytes: usize) -> usize {
    ((usize::BITS - bytes.leading_zeros()) as usize).min(CLASSES - 1)
}

impl SizeClasses {
    /// An outbox has changed its size.
    pub(crate) fn change(&mut self, before: usize, after: usize) {
        if before != after {
            self.0[class(before)] -= before;
            self.0[class(after)] += after;
        }
    }

    /// All bytes.
    pub fn sum(&self) -> usize {
        self.0.iter().sum()
    }

    /// The size to which larger outboxes have to shrink, so that all together come near the budget or under it, aiming at an
    /// eighth to spare: outboxes of one class pay alike. `None` while they are within it.
    pub fn size_to_shrink_to(&self, budget: usize) -> Option<usize> {
        let sum = self.sum();
        if sum <= budget {
            return None;
        }
        let excess = sum - budget / 8 * 7;
        let mut found = 0;
        for class in (1..CLASSES).rev() {
            found += self.0[class];
            if found >= excess {
                return Some((1 << (class - 1)) - 1);
            }
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_pay_first() {
        fn check(outboxes: &[usize], budget: usize, expect: Option<usize>) {
            let mut classes = SizeClasses::default();
            outboxes.iter().for_each(|bytes| classes.change(0, *bytes));
            assert_eq!(classes.size_to_shrink_to(budget), expect, "{outboxes:?} within {budget}");
        }
        check(&[], 0, None);
        check(&[100, 200], 300, None);
        check(&[100, 200], 299, Some(127));
        check(&[1, 1, 1, 1_000_000], 1_000, Some(524_287));
        check(&[1_000; 10], 5_000, Some(511));
        check(&[usize::MAX >> 10], 1_000, Some((1 << 38) - 1));
    }

    #[test]
    fn classes_are_the_sum_of_the_outboxes() {
        let mut classes = SizeClasses::default();
        for (before, after) in [(0, 5), (5, 6), (0, 900), (6, 0), (900, 70)] {
            classes.change(before, after);
        }
        let mut expect = SizeClasses::default();
        expect.0[7] = 70;
        assert_eq!(classes, expect);
        assert_eq!(class(1), 1);
        assert_eq!((class(127), class(128)), (7, 8));
    }
}
