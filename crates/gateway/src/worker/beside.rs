//! A worker in the test's own thread: its tasks and the story have turns.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::server::Server;

/// No story takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with `story`, or with the worker.
pub(super) fn beside_a_worker<F>(
    story: impl FnOnce(Rc<Worker>, SocketAddr) -> F,
) -> Option<std::io::Result<()>>
where
    F: Future<Output = ()>,
{
    beside_a_worker_of(Config::default(), story)
}

/// The same, with a configuration.
pub(super) fn beside_a_worker_of<F>(
    config: Config,
    story: impl FnOnce(Rc<Worker>, SocketAddr) -> F,
) -> Option<std::io::Result<()>>
where
    F: Future<Output = ()>,
{
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config { listen: any, admin: any, workers: 1, ..config };
    config.limits.close_timeout = Duration::from_secs(600);
    let server = Server::bind(config, None).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let listener = accept::listen(any, &server.shared.config().limits, false).unwrap();
        let address = listener.local_addr().unwrap();
        let worker = Worker::new(0, Arc::clone(&server.shared)).unwrap();
        let asked = ask::channels(1).1.remove(0);
        tokio::select! {
            ended = Rc::clone(&worker).run(listener, asked) => Some(ended),
            told = timeout(PATIENCE, story(Rc::clone(&worker), address)) => {
                told.expect("the story is told in time");
                None
            }
        }
    })
}

/// A connection that has asked, and has been answered up to `last`.
pub(super) async fn connect(address: SocketAddr, request: &str, last: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut client, last).await;
    client
}

pub(super) async fn read_until(client: &mut TcpStream, last: &str) {
    let mut seen = Vec::new();
    while !seen.ends_with(last.as_bytes()) {
        seen.push(client.read_u8().await.unwrap());
    }
}
