//! A set of shards, as bits.

/// Which shards of the process something concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardSet(u128);

impl ShardSet {
    /// How many shards a process can have.
    pub const SHARDS_MAX: usize = u128::BITS as usize;

    /// No shard.
    pub const EMPTY: Self = Self(0);

    /// Adds `shard`, which is below [`Self::SHARDS_MAX`].
    pub fn insert(&mut self, shard: usize) {
        self.0 |= bit(shard);
    }

    /// Takes `shard` out.
    pub fn remove(&mut self, shard: usize) {
        self.0 &= !bit(shard);
    }

    /// Whether `shard` is in the set.
    pub fn contains(self, shard: usize) -> bool {
        self.0 & bit(shard) != 0
    }

    /// The shards that are in one of the two.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no shard is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let shard = bits.trailing_zeros();
            if shard == u128::BITS {
                return None;
            }
            bits &= bits - 1;
            Some(shard as usize)
        })
    }
}

fn bit(shard: usize) -> u128 {
    debug_assert!(shard < ShardSet::SHARDS_MAX);
    1 << shard
}

impl FromIterator<usize> for ShardSet {
    fn from_iter<I: IntoIterator<Item = usize>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_out_in_order() {
        let mut set: ShardSet = [127, 0, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 127]);
        set.remove(5);
        set.remove(6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 127]);
        assert!(set.contains(127) && !set.contains(5));
        assert_eq!(set.union([5, 127].into_iter().collect()).iter().collect::<Vec<_>>(), [0, 5, 127]);
        set.remove(0);
        set.remove(127);
        assert!(set.is_empty());
        assert_eq!(set.iter().count(), 0);
    }
}
