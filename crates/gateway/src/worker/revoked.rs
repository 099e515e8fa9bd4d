//! Who loses what it may while its 101 waits for room in the socket, and is no subscriber yet.

use bytes::Bytes;
use fanfare_wire::command::Start;
use fanfare_wire::{Name, Pattern};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::beside::beside_a_worker;
use super::*;
use crate::auth::grant::{Grant, Holder};
use crate::auth::revocations::Who;
use crate::query::wanted;
use crate::session::Endpoint;
use crate::transport::websocket;

/// Checks that a client whose handshake is over subscribes to nothing, and is told 4501 before anything else.
async fn check(worker: &Rc<Worker>, endpoint: Endpoint, expires: Option<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, address) = listener.accept().await.unwrap();
    let client = Client::new(address.ip(), false);
    client.admit(Arc::new(Grant {
        publish: Box::default(),
        subscribe: Box::from([Pattern::new(">").unwrap()]),
        holder: Holder::Key("feeds".into()),
        expires,
    }));
    let (socket, format, permit) = (Socket::Plain(socket), endpoint.format(), Permit::take(worker).unwrap());
    let opened = websocket::open(Rc::clone(worker), socket, Bytes::new(), endpoint, format, client, permit);
    assert_eq!(worker.shard.borrow().topics(), 0, "it subscribes to nothing");
    let _task = spawn_local(opened);
    let mut frame = [0; 4];
    peer.read_exact(&mut frame).await.unwrap();
    assert_eq!((frame[0], &frame[2..]), (0x88, &4501u16.to_be_bytes()[..]), "{frame:?}");
}

#[test]
fn who_is_revoked_while_its_handshake_waits_does_not_come_in() {
    let ended = beside_a_worker(|worker, _| async move {
        let native = Endpoint::Native { heartbeat: None };
        let topic = Topic::new("a").unwrap();
        let wanted = wanted(&Name::Topic(topic.clone()), Start::Live);
        let raw = Endpoint::Raw { topic, wanted };
        for endpoint in [&native, &raw] {
            check(&worker, endpoint.clone(), Some(Instant::now())).await;
        }
        assert!(worker.shared.revocations.add(Who::Key("feeds".into()), None, 0, 9));
        for endpoint in [native, raw] {
            check(&worker, endpoint, None).await;
        }
        let closes = |reason: DisconnectReason| worker.counters().closes[reason.index()].read();
        while worker.open.get() > 0 {
            yield_now().await;
        }
        assert_eq!((closes(DisconnectReason::TokenExpired), closes(DisconnectReason::Revoked)), (2, 2));
    });
    assert!(ended.is_none(), "{ended:?}");
}
