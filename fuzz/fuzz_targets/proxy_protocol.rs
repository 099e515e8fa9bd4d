//! Any bytes as the beginning of a connection: no panic, and a header is read as the same however it is cut.

#![no_main]

use fanfare_wire::proxy_protocol::{HEADER_BYTES_MAX, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    let mut is_known = false;
    for end in 0..=input.len().min(HEADER_BYTES_MAX + 1) {
        match parse(&input[..end]) {
            Ok(Parsed::Part) => {
                assert!(!is_known, "what was known is forgotten");
                // All of it belongs to the header: less than that was not whole.
                assert!(end < HEADER_BYTES_MAX, "a part without an end");
            }
            Ok(Parsed::Whole { bytes, source }) => {
                assert!(bytes <= end && bytes <= HEADER_BYTES_MAX, "a header of bytes that are not there");
                assert!(is_known || bytes == end, "the header ended before");
                assert_eq!(whole, Ok(Parsed::Whole { bytes, source }));
                is_known = true;
            }
            Err(error) => {
                assert_eq!(whole, Err(error), "more bytes make another fault");
                is_known = true;
            }
        }
    }
});
