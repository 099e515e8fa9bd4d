//! The thread that writes the log, and the queue before it.
//!
//! A reader that stops holds up this thread and nobody else: lines that find no room are dropped, and counted.
//!
//! # Bounds   `Limits::log_lines` lines, of [`LINE_BYTES_MAX`] each

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// A longer line is cut.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// How long the end of the process waits for the log's reader.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Lines that nobody will read: the process has one log.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped so far.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

enum Item {
    Line(Vec<u8>),
    /// Everything before is written.
    Flush(SyncSender<()>),
}

/// The end of the queue where lines enter. Any thread.
#[derive(Clone)]
pub(crate) struct Queue(SyncSender<Item>);

/// The thread, for as long as the process writes.
pub(super) struct Writer(Queue);

/// Starts the thread.
pub(super) fn start(lines_max: usize) -> (Writer, Queue) {
    let (sender, receiver) = sync_channel(lines_max);
    let started = std::thread::Builder::new().name("log".into()).spawn(move || write(&receiver));
    // Without it every line is dropped, and counted.
    drop(started);
    (Writer(Queue(sender.clone())), Queue(sender))
}

fn write(queue: &Receiver<Item>) {
    let mut output = std::io::stderr();
    while let Ok(item) = queue.recv() {
        match item {
            // A full disk, or a reader that is gone: the next line may fare better.
            Item::Line(line) if output.write_all(&line).is_err() => drop(DROPPED.fetch_add(1, Relaxed)),
            Item::Line(_) => {}
            Item::Flush(done) => drop(done.try_send(())),
        }
    }
}

impl Queue {
    fn push(&self, mut line: Vec<u8>) {
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX);
            line.push(b'\n');
        }
        if self.0.try_send(Item::Line(line)).is_err() {
            DROPPED.fetch_add(1, Relaxed);
        }
    }
}

/// Each event is formatted whole before it is written: one call, one line.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Writer {
    pub(super) fn line(&self, line: Vec<u8>) {
        self.0.push(line);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_MAX;
        let (done, written) = sync_channel(1);
        let mut flush = Item::Flush(done);
        while let Err(TrySendError::Full(item)) = self.0.0.try_send(flush) {
            if Instant::now() >= deadline {
                return;
            }
            flush = item;
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_nobody_empties_drops_and_counts() {
        let (sender, receiver) = sync_channel(2);
        let queue = Queue(sender);
        let before = dropped();
        for line in ["one\n", "two\n", "three\n"] {
            (&queue).write_all(line.as_bytes()).unwrap();
        }
        (&queue).write_all(&vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(dropped() - before, 2);
        let lines = receiver.try_iter().map(|item| match item {
            Item::Line(line) => String::from_utf8(line).unwrap(),
            Item::Flush(_) => panic!("nobody asked for it"),
        });
        assert_eq!(lines.collect::<Vec<_>>(), ["one\n", "two\n"]);
        queue.push(vec![b'x'; 1 << 20]);
        let Ok(Item::Line(line)) = receiver.try_recv() else { panic!("there was room") };
        assert_eq!((line.len(), line.last()), (LINE_BYTES_MAX + 1, Some(&b'\n')));
    }
}
