//! `fanfare-load`: puts load on a Fanfare gateway, checks that every message arrived, and measures what it took.
//!
//! ```text
//!     quick ─┬─► subscriber threads (crowd): connect (request), read (incoming), check and count (recorder)
//!            ├─► publisher threads: what is due (schedule) is posted (payload)
//!            └─► report: text and JSON, with the server's CPU and memory (process)
//!     floor ───► a server that only writes, to compare with
//!     page, compare, schema: what is made of reports that were kept
//! ```
//!
//! Exit code: 0 when all went well; 1 when a message was lost, came twice or out of order, a subscriber was
//! disconnected, the server could not be reached, or a comparison is past its bound; 2 when the command line is wrong.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use args::{Args, Command};

mod args;
mod chunks;
mod compare;
mod connection;
mod crowd;
mod event_stream;
mod floor;
mod http;
mod incoming;
mod lines;
mod pace;
mod payload;
mod process;
mod progress;
mod publisher;
mod quick;
mod recorder;
mod report;
mod request;
mod scanner;
mod schedule;
mod subscriber;
mod units;
mod view;
mod websocket;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Quick(options) => {
            if let Err(problem) = options.check() {
                Args::command().error(ErrorKind::ValueValidation, problem).exit();
            }
            quick::run(&options)
        }
        Command::Floor(options) => floor::run(&options).map(|()| true),
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
            ExitCode::FAILURE
        }
    }
}
