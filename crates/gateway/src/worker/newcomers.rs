//! When newcomers get in.

use super::beside::{beside_a_worker, connect};

#[test]
fn newcomers_get_in_while_a_pass_goes_on() {
    let ended = beside_a_worker(|worker, address| async move {
        worker.passing.set(true);
        for _ in 0..20 {
            connect(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "ok\n").await;
        }
        assert!(worker.passing.get(), "it never ended");
    });
    assert!(ended.is_none(), "{ended:?}");
}

#[test]
fn who_waits_for_the_end_of_a_pass_sees_it() {
    let ended = beside_a_worker(|worker, _| async move {
        worker.between_passes().await;
        worker.passing.set(true);
        let waiting = worker.between_passes();
        let ending = async {
            let pass = worker.shard.borrow_mut().begin(std::time::Instant::now(), 0, []);
            worker.carry_out(pass).await;
        };
        tokio::join!(waiting, ending);
        assert!(!worker.passing.get());
    });
    assert!(ended.is_none(), "{ended:?}");
}
