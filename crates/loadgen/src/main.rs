//! `fanfare-load`: puts load on a Fanfare gateway or another server, checks that every message arrived, and measures what
//! it took.
//!
//! ```text
//!     scenario ──► run ─┬─► subscriber threads (crowd, reader): connect (dials), ask (request), read (incoming, foreign),
//!     adapter ───►      │                               check (track) and count (recorder)
//!                       ├─► publisher threads: what is due (schedule) is written (outgoing)
//!                       └─► report: text and JSON, with the server's CPU and memory (process)
//!     knee ───► runs with a growing rate, until a bound is passed
//!     floor ───► a server that only writes, to compare with
//!     flood ───► connections that send one request each
//!     page, compare, schema: what is made of reports that were kept
//! ```
//!
//! Exit code: 0 when all went well; 1 when a message was lost, came twice or out of order, a subscriber was
//! disconnected, the run ended before its time, the server could not be reached, a comparison is past its bound, or not even
//! the first step of a knee held; 2 when the command line, a scenario or an adapter is wrong.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use args::{Args, Command};

mod adapter;
mod args;
mod chunks;
mod commands;
mod compare;
mod connection;
mod crowd;
mod dials;
mod event_stream;
mod flood;
mod floor;
mod foreign;
mod http;
mod incoming;
mod knee;
mod ledger;
mod lines;
mod load;
mod outgoing;
mod pace;
mod payload;
mod polls;
mod process;
mod progress;
mod publisher;
mod reader;
mod recorder;
mod recording;
mod report;
mod request;
mod run;
mod scanner;
mod scenario;
mod scene;
mod schedule;
mod series;
mod stamps;
mod subscriber;
mod track;
mod units;
mod view;
mod websocket;

const WRONG: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Quick(options) => match options.flags.scenario() {
            Ok(scenario) => commands::run(&options.common, vec![scenario]),
            Err(problem) => Args::command().error(ErrorKind::ValueValidation, problem).exit(),
        },
        Command::Run(options) => commands::run_scenarios(&options),
        Command::Knee(options) => knee::run(&options),
        Command::Replay(options) => commands::run(&options.common, vec![options.scenario()]),
        Command::List => {
            print!("{}", scenario::list());
            Ok(true)
        }
        Command::Floor(options) => floor::run(&options).map(|()| true),
        Command::Flood(options) => flood::run(&options),
        Command::Page(options) => report::page::write(&options.report, options.out.as_deref()).map(|()| true),
        Command::Compare(options) => {
            if let Err(problem) = options.check() {
                Args::command().error(ErrorKind::ValueValidation, problem).exit();
            }
            compare::run(&options)
        }
        Command::Schema => report::file::print_schema().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fanfare-load: {error:#}");
            if error.is::<scenario::Refused>() { ExitCode::from(WRONG) } else { ExitCode::FAILURE }
        }
    }
}
