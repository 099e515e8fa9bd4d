//! Writes the seeds of the `websocket_parser` target, one stream for each rule of the parser:
//!
//! ```sh
//! cargo run --manifest-path fuzz/Cargo.toml --example websocket_parser_seeds
//! ```

use std::{fs, io, path::Path};

use fanfare_wire::websocket::{OpCode, deflate, encode_masked_frame};

const KEY: [u8; 4] = *b"KEY!";

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/websocket_parser");
    fs::create_dir_all(&corpus)?;
    for (name, frames) in seeds() {
        fs::write(corpus.join(name), frames.concat())?;
    }
    Ok(())
}

fn seeds() -> [(&'static str, Vec<Vec<u8>>); 21] {
    use OpCode::{Binary, Close, Continuation, Ping, Pong, Text};
    let text = "k\u{f6}\u{df}\u{20ac}\u{10ffff}".as_bytes();
    [
        ("text", vec![frame(Text, text)]),
        ("empty", vec![frame(Text, b""), frame(Binary, b""), frame(Ping, b""), frame(Close, b"")]),
        ("binary_2_byte_length", vec![frame(Binary, &[0xff; 200])]),
        ("ping_pong", vec![frame(Ping, b"are you there"), frame(Pong, b"")]),
        ("fragments", vec![open(Text, &text[..5]), open(Continuation, b""), frame(Continuation, &text[5..])]),
        (
            "ping_between",
            vec![open(Binary, b"a"), frame(Ping, b"p"), frame(Continuation, b"b"), frame(Text, b"t")],
        ),
        ("close", vec![frame(Close, b"\x03\xe8bye"), frame(Text, b"ignored")]),
        ("close_code_1005", vec![frame(Close, b"\x03\xed")]),
        ("bad_text", vec![open(Text, b"\xed"), frame(Continuation, b"\xa0\x80")]),
        ("interrupted", vec![open(Text, b"a"), frame(Text, b"b")]),
        ("many_fragments", [vec![open(Text, b"")], vec![open(Continuation, b""); 8]].concat()),
        ("too_big", vec![b"\x82\xff\0\0\0\0\x40\0\0\0KEY!".to_vec()]),
        ("not_minimal", vec![b"\x82\xfe\0\x01KEY!x".to_vec()]),
        ("unmasked", vec![b"\x81\x05hello".to_vec()]),
        // The examples of RFC 7692, section 7.2.3, and what is none.
        ("compressed", vec![compressed(frame(Text, b"\xf2\x48\xcd\xc9\xc9\x07\x00"))]),
        (
            "compressed_fragments",
            vec![
                compressed(open(Text, b"\xf2\x48\xcd")),
                frame(Ping, b""),
                frame(Continuation, b"\xc9\xc9\x07\x00"),
            ],
        ),
        ("compressed_stored", vec![compressed(frame(Binary, b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"))]),
        ("compressed_last_block", vec![compressed(frame(Text, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"))]),
        ("compressed_cut", vec![compressed(frame(Text, b"\xf2\x48\xcd"))]),
        // A run of 4,097 and more bytes.
        ("compressed_bomb", vec![compressed(bomb())]),
        ("compressed_ping", vec![compressed(frame(Ping, b""))]),
    ]
}

fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked_frame(opcode, payload, KEY, &mut frame);
    frame
}

/// A frame marked as compressed.
fn compressed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] |= 0x40;
    frame
}

fn bomb() -> Vec<u8> {
    let run = deflate::frame(OpCode::Text, &[b'x'; 5000]).expect("it becomes shorter");
    frame(OpCode::Text, &run[2..])
}

/// A frame without the final bit: its message goes on.
fn open(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[0] &= 0x7f;
    frame
}
