//! What is published again under the same key.

use crate::JSON;
use crate::support::Gateway;
use crate::support::peer::{Answer, Peer, request};

#[test]
fn a_repeated_key_gets_the_first_answer_and_publishes_nothing() {
    let gateway = Gateway::start(&[]);
    let (mut native, _) = Peer::subscribed(gateway.address, &["a", "b"]);
    let post = |target: &str, key: &str, content_type: &str, body: &str| {
        let headers = [("content-type", content_type), ("idempotency-key", key)];
        request(gateway.address, "POST", target, &headers, body)
    };
    let replayed = |answer: &Answer| answer.header("idempotent-replayed").map(str::to_owned);

    let refused = post("/topics/a", "7f3c", JSON, "{");
    assert_eq!(refused.status, 400, "a refused publish is not remembered");
    let first = post("/topics/a", "7f3c", JSON, "1");
    let again = post("/topics/a", "7f3c", JSON, "1");
    assert_eq!((first.status, replayed(&first)), (200, None));
    assert_eq!((again.status, replayed(&again).as_deref()), (200, Some("true")));
    assert_eq!(first.text(), again.text());
    let other = post("/topics/b", "7f3c", JSON, "1");
    assert_eq!(
        (other.json()["offset"].as_u64(), replayed(&other)),
        (Some(1), None),
        "another topic, another key"
    );

    let first = post("/topics/a?split=lines", "lines", "text/plain", "2\n3");
    let again = post("/topics/a?split=lines", "lines", "text/plain", "2\n3");
    assert_eq!((first.text(), replayed(&again).as_deref()), (again.text(), Some("true")));
    assert_eq!(again.json()["first"], 2);
    let other_body = post("/topics/a?split=lines", "lines", "text/plain", "2\n3\n4\n5");
    assert_eq!(other_body.text(), first.text(), "the answer is about what was published");

    let items = r#"[{"topic":"a","data":4,"id":"x"},{"topics":["a","b"],"data":5}]"#;
    let first = post("/publish", "many", JSON, items);
    let again = post("/publish", "many", JSON, items);
    assert_eq!((first.text(), replayed(&first)), (again.text(), None));
    assert_eq!(replayed(&again).as_deref(), Some("true"));
    let part = post("/publish", "other", JSON, items);
    assert_eq!(replayed(&part), None, "an answer that is new in part is no replay");
    assert_eq!(part.json()["results"][0], first.json()["results"][0], "the item's own id is older");

    let mut got: Vec<(String, u64)> = native
        .fence()
        .iter()
        .map(|message| (message["topic"].as_str().unwrap().to_owned(), message["offset"].as_u64().unwrap()))
        .collect();
    got.sort();
    let expect: Vec<_> = (1..=6).map(|offset| ("a".to_owned(), offset)).collect();
    assert_eq!(got[..6], expect, "each was delivered once");
    assert_eq!(got.len(), 6 + 3);
}

#[test]
fn two_equal_requests_at_once_publish_once() {
    let gateway = Gateway::start(&[]);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let post = || {
            let headers = [("content-type", JSON), ("idempotency-key", "one")];
            request(gateway.address, "POST", "/topics/a", &headers, "1")
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(post)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["offset"] == 1));
    let new = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
    assert_eq!(new, 1);
}
