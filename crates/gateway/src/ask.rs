//! What the control plane asks of workers, answered on each worker's own thread, beside its passes.
//!
//! A question is a closure that travels to the worker and runs as one of its local tasks, so it may look at everything a
//! worker owns, and no lock stands between the two. One that goes over all connections yields now and then.
//!
//! # Bounds   [`WAITING_MAX`] questions wait for a worker, each for `Limits::admin_wait`

use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::ApiError;
use crate::server::Shared;
use crate::worker::Worker;

/// Questions that wait for one worker; another one is refused.
const WAITING_MAX: usize = 64;

/// What a worker is to do, and to send somewhere.
pub(crate) struct Question(Box<dyn FnOnce(Rc<Worker>) -> Carried + Send>);

/// It being done.
type Carried = Pin<Box<dyn Future<Output = ()>>>;

/// Where one worker's questions are put.
pub(crate) type Asker = mpsc::Sender<Question>;

/// Where it finds them.
pub(crate) type Asked = mpsc::Receiver<Question>;

/// The two ends, for each worker.
pub(crate) fn channels(workers: usize) -> (Vec<Asker>, Vec<Asked>) {
    (0..workers).map(|_| mpsc::channel(WAITING_MAX)).unzip()
}

/// Answers until the worker ends, one question at a time.
pub(crate) async fn answer(worker: Rc<Worker>, mut asked: Asked) {
    while let Some(Question(run)) = asked.recv().await {
        run(Rc::clone(&worker)).await;
    }
}

/// Asks one worker, by its index.
pub(crate) async fn ask<R: Send + 'static>(
    shared: &Shared,
    worker: usize,
    question: impl AsyncFnOnce(Rc<Worker>) -> R + Send + 'static,
) -> Result<R, ApiError> {
    receive(shared, put(shared, worker, question)?).await
}

/// Asks all workers at once: their answers, in the order of the workers. `question` makes one for each index.
pub(crate) async fn ask_all<R: Send + 'static, Q>(
    shared: &Shared,
    question: impl Fn(usize) -> Q,
) -> Result<Vec<R>, ApiError>
where
    Q: AsyncFnOnce(Rc<Worker>) -> R + Send + 'static,
{
    let asked: Vec<_> =
        (0..shared.counters.len()).map(|worker| put(shared, worker, question(worker))).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.push(receive(shared, answer?).await?);
    }
    Ok(answers)
}

fn put<R: Send + 'static>(
    shared: &Shared,
    worker: usize,
    question: impl AsyncFnOnce(Rc<Worker>) -> R + Send + 'static,
) -> Result<oneshot::Receiver<R>, ApiError> {
    let (answer, answered) = oneshot::channel();
    let run = Box::new(move |worker| -> Carried {
        Box::pin(async move {
            // Who has given up does not want anything done any more.
            if !answer.is_closed() {
                let _ = answer.send(question(worker).await);
            }
        })
    });
    let asker = shared.askers.get(worker).ok_or_else(ApiError::not_found)?;
    asker.try_send(Question(run)).map_err(|_| unanswered())?;
    Ok(answered)
}

async fn receive<R>(shared: &Shared, answered: oneshot::Receiver<R>) -> Result<R, ApiError> {
    let wait = shared.config().limits.admin_wait;
    match timeout(wait, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(unanswered()),
    }
}

fn unanswered() -> ApiError {
    ApiError::unavailable("a worker does not answer")
}
