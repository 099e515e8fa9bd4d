//! Publishes a few ticks, each once, however often it takes.
//!
//! ```sh
//! cargo run --release --bin fanfare -- demo
//! cargo run -p fanfare-client --example publish -- http://127.0.0.1:8080
//! ```

use std::time::Duration;

use fanfare_client::{BackOff, Client, Item, Payload};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let publisher = Client::new(&url)?.publisher();
    let mut publisher = publisher
        .with_retries(BackOff::default(), Some(Duration::from_secs(100)))
        .on_retry(|error, pause| eprintln!("{error}; again in {pause:?}"));

    // One message, with the name and the key of its kind.
    let tick = Payload::json(r#"{"bid":"64000.10","ask":"64000.20"}"#).event("tick").key("BTC");
    let published = publisher.publish("example.BTC-USD", tick).await?;
    println!("example.BTC-USD is at {}:{}", published.epoch, published.offset);

    // Each line a message, in one request.
    let batch = publisher.publish_lines("example.log", Payload::text("first line\nsecond line\n")).await?;
    println!("example.log is at {} after {} lines", batch.offset, batch.count);

    // Many topics, in one request. A refused item does not spoil the others.
    let items = [
        Item::new("example.ETH-USD", br#"{"bid":"3100.00"}"#)?,
        Item::new("no topic at all", br#"{"bid":"0"}"#)?,
    ];
    for result in publisher.publish_many(&items).await? {
        match result {
            Ok(published) => println!("example.ETH-USD is at {}", published.offset),
            Err(refusal) => println!("refused: {refusal}"),
        }
    }
    Ok(())
}
