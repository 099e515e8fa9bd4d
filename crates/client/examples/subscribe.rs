//! Follows topics and wildcards over every reconnect, and says what it did not get.
//!
//! ```sh
//! cargo run --release --bin fanfare -- demo
//! cargo run -p fanfare-client --example subscribe -- http://127.0.0.1:8080 'ticker.>'
//! ```
//!
//! Stop the gateway and start it again: the tickers are reset, and go on.

use fanfare_client::{Client, Data, Event, Status};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let mut topics: Vec<String> = arguments.collect();
    if topics.is_empty() {
        topics.push("ticker.BTC-USD".to_owned());
    }

    let mut subscription = Client::new(&url)?.subscribe(topics);
    loop {
        match subscription.next().await? {
            Event::Message(message) => {
                let payload = match &message.data {
                    Data::Json(json) => String::from_utf8_lossy(json),
                    Data::Binary(bytes) => format!("{} bytes", bytes.len()).into(),
                };
                println!("{} {}:{} {payload}", message.topic, message.epoch, message.offset);
            }
            Event::Gap { topic, from, to, reason, .. } => {
                println!("{topic}: {from} to {to} are lost ({reason})")
            }
            Event::Reset { topic, .. } => println!("{topic}: begins anew, forget its state"),
            Event::Status { topic, status: Status::Stale, age } => println!("{topic}: nothing for {age:?}"),
            Event::Topic { topic, .. } => println!("{topic}: from now on"),
            Event::Refused { topic, refusal } => println!("{topic}: {refusal}"),
            Event::Connected { client } => println!("connected as {client}"),
            Event::Disconnected { reason, retry_in } => println!("{reason}; again in {retry_in:?}"),
            _ => {}
        }
    }
}
