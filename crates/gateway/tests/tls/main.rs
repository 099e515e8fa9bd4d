//! The public listener under TLS: the same as ever for who shakes hands, and the end for who does not.

#[path = "../support/mod.rs"]
mod support;

mod as_ever;
mod certificates;
mod faults;
mod secure;
mod slow_consumers;
