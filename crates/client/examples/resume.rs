//! Goes on where an earlier run of it has stopped: keeps its positions in a file.
//!
//! ```sh
//! cargo run --release --bin fanfare -- demo
//! cargo run -p fanfare-client --example resume -- http://127.0.0.1:8080 places.json
//! cargo run -p fanfare-client --example resume -- http://127.0.0.1:8080 places.json
//! ```
//!
//! Each run prints twenty prices of two tickers; the second begins with what followed the first's last.

use std::collections::BTreeMap;

use fanfare_client::{Client, Event, TopicRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let path = arguments.next().unwrap_or_else(|| "places.json".to_owned());
    let places: BTreeMap<String, (String, u64)> = match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(_) => BTreeMap::new(),
    };

    // A wildcard would take all places at once, with `positions`.
    let requests = ["ticker.BTC-USD", "ticker.ETH-USD"].map(|topic| match places.get(topic) {
        Some((epoch, offset)) => TopicRequest::new(topic).resume(epoch.as_str(), *offset),
        None => TopicRequest::new(topic),
    });
    let mut subscription = Client::new(&url)?.subscribe(requests);
    let mut count = 0;
    while count < 20 {
        match subscription.next().await? {
            Event::Message(message) => {
                println!("{} {}", message.topic, message.offset);
                count += 1;
            }
            Event::Reset { topic, .. } => println!("{topic}: what followed is not kept any more"),
            Event::Gap { topic, from, to, .. } => println!("{topic}: {from} to {to} are lost"),
            _ => {}
        }
    }

    let places: BTreeMap<&str, (String, u64)> = subscription
        .positions()
        .map(|(topic, place)| (topic, (place.epoch.to_string(), place.offset)))
        .collect();
    std::fs::write(&path, serde_json::to_vec(&places)?)?;
    subscription.close().await?;
    Ok(())
}
