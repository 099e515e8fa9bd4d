//! Reads request bodies, within bounds of size, time, and memory over all connections.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use tokio::time::{sleep, timeout};

use crate::error::ApiError;
use crate::server::Shared;

/// The body, whole, within `Limits::body_timeout`. Of one that did not come with its head `still` is asked at the end.
pub(crate) async fn read(
    body: &mut Incoming,
    shared: &Shared,
    still: impl FnOnce() -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let (max, held_max, time) = {
        let limits = &shared.config().limits;
        (limits.body_bytes, limits.inflight_body_bytes, limits.body_timeout)
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let mut frame = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
    if let Poll::Ready(Some(Ok(frame))) = &mut frame
        && let Some(data) = frame.data_mut()
        && data.len() <= max
        && body.is_end_stream()
    {
        // It came with its head, as nearly all do: no timer is set for it, and it is never held while anybody waits.
        return Ok(std::mem::take(data));
    }
    let mut held = Held::new(&shared.inflight_body_bytes, held_max);
    let mut deadline = pin!(sleep(time));
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let next = match frame {
            Poll::Ready(next) => next,
            Poll::Pending => tokio::select! {
                biased;
                next = body.frame() => next,
                () = &mut deadline => return Err(too_slow()),
            },
        };
        frame = Poll::Pending;
        let Some(next) = next else { break };
        let next =
            next.map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))?;
        let Ok(data) = next.into_data() else { continue };
        if held.bytes + data.len() > max {
            return Err(too_large(max));
        }
        held.take(data.len())?;
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    still()?;
    // A body in one piece is not copied.
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The lines of a body that is here, without their ends.
pub(crate) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(body);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(end) = memchr::memchr(b'\n', text) else { return Some(text) };
        rest = Some(&text[end + 1..]);
        Some(&text[..end])
    })
}

/// A body that is read line by line while it arrives. One line is within `Limits::body_bytes`, and a pause within
/// `Limits::stream_idle`.
pub(crate) struct Lines<'a> {
    body: &'a mut Incoming,
    buffer: BytesMut,
    /// Where the search for the end of the line goes on.
    searched: usize,
    line_max: usize,
    idle_max: Duration,
    held: Held<'a>,
    ended: bool,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(body: &'a mut Incoming, shared: &'a Shared) -> Self {
        let config = shared.config();
        let limits = &config.limits;
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            line_max: limits.body_bytes,
            idle_max: limits.stream_idle,
            held: Held::new(&shared.inflight_body_bytes, limits.inflight_body_bytes),
            ended: false,
        }
    }

    /// The next line without its end, or `None` behind the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > self.line_max {
                return Err(too_large(self.line_max));
            }
            match timeout(self.idle_max, self.body.frame()).await {
                Err(_) => return Err(too_slow()),
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => return Err(ApiError::bad_request(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.take(data.len())?;
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Whether a whole line is here: the next call of [`next`](Self::next) does not wait.
    pub(crate) fn is_ready(&self) -> bool {
        self.ended || self.buffer[self.searched..].contains(&b'\n')
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let end = match memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            Some(position) => self.searched + position + 1,
            None if self.ended && !self.buffer.is_empty() => self.buffer.len(),
            None => {
                self.searched = self.buffer.len();
                return None;
            }
        };
        self.searched = 0;
        self.held.give(end);
        let line = self.buffer.split_to(end).freeze();
        Some(line.strip_suffix(b"\n").map_or_else(|| line.clone(), |text| line.slice_ref(text)))
    }
}

/// Bytes held of `Limits::inflight_body_bytes`; given back when dropped.
struct Held<'a> {
    total: &'a AtomicUsize,
    total_max: usize,
    bytes: usize,
}

impl<'a> Held<'a> {
    fn new(total: &'a AtomicUsize, total_max: usize) -> Self {
        Self { total, total_max, bytes: 0 }
    }

    fn take(&mut self, bytes: usize) -> Result<(), ApiError> {
        let before = self.total.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        if before + bytes > self.total_max {
            return Err(ApiError::unavailable("too many request bodies at once"));
        }
        Ok(())
    }

    fn give(&mut self, bytes: usize) {
        self.total.fetch_sub(bytes, Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

fn too_large(max: usize) -> ApiError {
    ApiError::too_large(format!("at most {max} bytes"))
}

/// The answer to a body that does not come in time.
pub(crate) fn too_slow() -> ApiError {
    let code = fanfare_wire::event::ErrorCode::Timeout;
    ApiError::new(StatusCode::REQUEST_TIMEOUT, code, "the body came too slowly")
}
