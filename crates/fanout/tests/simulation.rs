//! A worker's life, made up by a seed: clients come, subscribe to topics and patterns, read slowly or not at all, and leave,
//! while messages pass through the shard in small steps. Every client reads its bytes and checks them against what it was
//! promised.
//!
//! A failure prints its seed. `FANFARE_SIM_SEED=n` runs that seed alone and prints each operation; `FANFARE_SIM_SEEDS=n`
//! runs that many.

mod model;
mod world;

use model::Seen;
use world::World;

const SEEDS: u64 = 700;
const STEPS: usize = 400;

#[test]
fn every_socket_gets_what_it_was_promised() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    if let Some(seed) = number("FANFARE_SIM_SEED") {
        run(seed, true);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number("FANFARE_SIM_SEEDS").unwrap_or(SEEDS) {
        seen.add(&run(seed, false));
    }
    seen.check_that_all_happened();
}

fn run(seed: u64, traced: bool) -> Seen {
    let _name = SeedOnPanic(seed);
    let mut world = World::new(seed, traced);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.wind_down();
    world.seen
}

struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: FANFARE_SIM_SEED={}", self.0);
        }
    }
}
