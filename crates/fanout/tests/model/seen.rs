//! How often the things happened that the simulation is about.

macro_rules! seen {
    ($($name:ident)*) => {
        /// What happened: a simulation in which nothing does would pass as well.
        #[derive(Debug, Default)]
        pub(crate) struct Seen {
            $(pub(crate) $name: u64,)*
        }

        impl Seen {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            pub(crate) fn check_that_all_happened(&self) {
                println!("{self:?}");
                $(assert!(self.$name > 0, "no {} in the whole simulation", stringify!($name));)*
            }
        }
    };
}

seen! {
    announced_topics
    births
    closed_and_discarded
    conflated
    covered_twice
    cut_frames
    deliveries
    evicted_gaps
    evictions_for_a_gap
    evictions_for_the_budget
    gaps
    gaps_of_conflation
    handovers
    interrupted_flushes
    leavers_in_a_pass
    live
    marks
    messages_lost
    newcomers_in_a_pass
    paced
    passed_over
    passes_of_silence
    peers_gone
    polls_woken
    refused_answers
    refused_replays
    releases
    reloads
    replays
    replays_of_several_topics
    sheds
    slow_consumers
    stale
    steps_in_order
    steps_shuffled
    swept_topics
    torn
}
