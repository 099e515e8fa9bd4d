//! How often the things happened that the simulation is about.

/// What happened: a simulation in which nothing does would pass as well.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    pub(crate) messages_lost: u64,
    pub(crate) replays: u64,
    pub(crate) newcomers_in_a_pass: u64,
    pub(crate) leavers_in_a_pass: u64,
    pub(crate) cut_frames: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) evictions_for_a_gap: u64,
    pub(crate) peers_gone: u64,
    pub(crate) refused_answers: u64,
    pub(crate) closed_and_discarded: u64,
}

impl Seen {
    fn counts(&mut self) -> [(&'static str, &mut u64); 12] {
        [
            ("deliveries", &mut self.deliveries),
            ("gaps", &mut self.gaps),
            ("messages lost", &mut self.messages_lost),
            ("replays", &mut self.replays),
            ("newcomers in a pass", &mut self.newcomers_in_a_pass),
            ("leavers in a pass", &mut self.leavers_in_a_pass),
            ("cut frames", &mut self.cut_frames),
            ("slow consumers", &mut self.slow_consumers),
            ("evictions for a gap", &mut self.evictions_for_a_gap),
            ("peers gone", &mut self.peers_gone),
            ("refused answers", &mut self.refused_answers),
            ("closed and discarded", &mut self.closed_and_discarded),
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        for ((_, sum), (_, more)) in self.counts().into_iter().zip(other.counts()) {
            *sum += *more;
        }
    }

    pub(crate) fn check_that_all_happened(&mut self) {
        println!("{self:?}");
        for (name, count) in self.counts() {
            assert!(*count > 0, "no {name} in the whole simulation");
        }
    }
}
