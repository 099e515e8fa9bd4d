//! The parser under random streams: split anywhere they mean the same, and what was sent comes out.

use fanfare_wire::websocket::{
    CloseCode, Event, Fault, OpCode, Parser, ParserLimits, deflate, encode_masked_frame, header_len,
};
use proptest::{collection::vec, prelude::*, sample};

const LIMITS: ParserLimits = ParserLimits { message_bytes_max: 2000, fragments_max: 6, deflate: true };

/// An [`Event`] that outlives its input.
#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(CloseCode, String)>),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Owned, Fault>> {
    let mut parser = Parser::new();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut events = parser.feed(&mut piece, LIMITS);
        while let Some(event) = events.next() {
            seen.push(event.map(Owned::from));
        }
    }
    seen
}

/// Cuts `stream` at each of `cuts`, each a place relative to its length.
fn split<'a>(stream: &'a [u8], cuts: &[sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for cut in cuts {
        pieces.push(&stream[start..cut]);
        start = cut;
    }
    pieces.push(&stream[start..]);
    pieces
}

fn masked(opcode: OpCode, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked_frame(opcode, payload, key, &mut frame);
    frame
}

/// A message in one frame or a few with pings between them, compressed or not, a control frame, or now and then a close.
fn valid_frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..400),
    ];
    let control =
        (sample::select(vec![OpCode::Ping, OpCode::Pong]), vec(any::<u8>(), 0..=125), any::<[u8; 4]>())
            .prop_map(|(opcode, payload, key)| masked(opcode, &payload, key));
    let close = (sample::select(vec![1000_u16, 1005, 4000]), "[a-z]{0,9}", any::<[u8; 4]>()).prop_map(
        |(code, reason, key)| masked(OpCode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat(), key),
    );
    let message = (
        sample::select(vec![OpCode::Text, OpCode::Binary]),
        payload,
        any::<[u8; 4]>(),
        vec(any::<sample::Index>(), 0..5),
        any::<bool>(),
        prop_oneof![3 => Just(0), 1 => 1..20_usize],
    )
        .prop_map(|(opcode, mut payload, key, cuts, pings, repetitions)| {
            let mut stream = Vec::new();
            let compressed = deflate::frame(opcode, &payload.repeat(repetitions));
            if let Some(frame) = &compressed {
                payload = payload_of(frame).to_vec();
            }
            let fragments = split(&payload, &cuts);
            for (at, fragment) in fragments.iter().enumerate() {
                let opcode = if at == 0 { opcode } else { OpCode::Continuation };
                let start = stream.len();
                encode_masked_frame(opcode, fragment, key, &mut stream);
                if at == 0 && compressed.is_some() {
                    stream[start] |= 0x40;
                }
                if at + 1 < fragments.len() {
                    stream[start] &= 0x7f;
                    if pings {
                        encode_masked_frame(
                            OpCode::Ping,
                            fragment.get(..4).unwrap_or_default(),
                            key,
                            &mut stream,
                        );
                    }
                }
            }
            stream
        });
    prop_oneof![6 => message, 2 => control, 1 => close]
}

/// What stands behind the header of a server's frame of fewer than 64 KiB.
fn payload_of(frame: &[u8]) -> &[u8] {
    &frame[if frame[1] == 126 { header_len(126) } else { header_len(0) }..]
}

/// Frames, most of them valid, with a few bits of the stream turned over.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let flips = prop_oneof![2 => Just(vec![]), 1 => vec((any::<sample::Index>(), 0..8_u8), 1..4)];
    (vec(valid_frames(), 1..8), flips).prop_map(|(frames, flips)| {
        let mut stream = frames.concat();
        for (at, bit) in flips {
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
        }
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_split_stream_means_the_same(stream in stream(), cuts in vec(any::<sample::Index>(), 0..12)) {
        let whole = parse([&stream[..]]);
        prop_assert_eq!(&parse(split(&stream, &cuts)), &whole, "cut at random");
        prop_assert_eq!(&parse(stream.chunks(1)), &whole, "byte by byte");
    }

    #[test]
    fn compressed_messages_come_out(
        texts in vec("[a-f \u{e4}]{0,300}", 1..5),
        key: [u8; 4],
        cuts in vec(any::<sample::Index>(), 0..6),
    ) {
        let mut stream = Vec::new();
        for text in &texts {
            let start = stream.len();
            match deflate::frame(OpCode::Text, text.as_bytes()) {
                Some(frame) => {
                    encode_masked_frame(OpCode::Text, payload_of(&frame), key, &mut stream);
                    stream[start] |= 0x40;
                }
                None => encode_masked_frame(OpCode::Text, text.as_bytes(), key, &mut stream),
            }
        }
        let expect: Vec<_> = texts.into_iter().map(|text| Ok(Owned::Text(text))).collect();
        prop_assert_eq!(parse(split(&stream, &cuts)), expect);
    }

    #[test]
    fn random_bytes_mean_the_same_when_split(stream in vec(any::<u8>(), 0..60)) {
        prop_assert_eq!(parse(stream.chunks(1)), parse([&stream[..]]));
    }

    #[test]
    fn what_a_client_sends_comes_out(
        sent in vec(
            prop_oneof![
                any::<String>().prop_map(Owned::Text),
                vec(any::<u8>(), 0..1500).prop_map(Owned::Binary),
                vec(any::<u8>(), 0..=125).prop_map(Owned::Ping),
                vec(any::<u8>(), 0..=125).prop_map(Owned::Pong),
            ],
            0..6,
        ),
        key: [u8; 4],
        cuts in vec(any::<sample::Index>(), 0..6),
    ) {
        let mut stream = Vec::new();
        for event in &sent {
            let (opcode, payload) = match event {
                Owned::Text(text) => (OpCode::Text, text.as_bytes()),
                Owned::Binary(bytes) => (OpCode::Binary, &bytes[..]),
                Owned::Ping(bytes) => (OpCode::Ping, &bytes[..]),
                Owned::Pong(bytes) => (OpCode::Pong, &bytes[..]),
                Owned::Close(_) => unreachable!("none is generated"),
            };
            encode_masked_frame(opcode, payload, key, &mut stream);
        }
        let expect: Vec<_> = sent.into_iter().map(Ok).collect();
        prop_assert_eq!(parse(split(&stream, &cuts)), expect);
    }

    #[test]
    fn text_is_accepted_just_when_it_is_utf8(
        payload in near_utf8(),
        cuts in vec(any::<sample::Index>(), 0..6),
    ) {
        let stream = masked(OpCode::Text, &payload, *b"KEY!");
        let expect = String::from_utf8(payload).map(Owned::Text).map_err(|_| Fault::TextNotUtf8);
        prop_assert_eq!(parse(split(&stream, &cuts)), [expect]);
    }
}

/// Characters of every width, with at most one byte changed.
fn near_utf8() -> impl Strategy<Value = Vec<u8>> {
    ("\\PC{1,12}", any::<Option<(sample::Index, u8)>>()).prop_map(|(text, change)| {
        let mut bytes = text.into_bytes();
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}
