//! The XOR that hides a client's payload from middleboxes (RFC 6455, section 5.3); done twice it is undone.

/// Masks or unmasks `bytes` in place, eight at a time. `phase` is how many bytes of the same payload came
/// before these, so that a payload can be handled in pieces.
pub fn mask(bytes: &mut [u8], mut key: [u8; 4], phase: usize) {
    key.rotate_left(phase % 4);
    let [a, b, c, d] = key;
    let twice = [a, b, c, d, a, b, c, d];
    let word = u64::from_ne_bytes(twice);

    let (words, rest) = bytes.as_chunks_mut();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(twice) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask_bytewise(bytes: &mut [u8], key: [u8; 4], phase: usize) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(at + phase) % 4];
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_unmasked() {
        let mut bytes = *b"\x7f\x9f\x4d\x51\x58";
        mask(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&bytes, b"Hello");
    }

    proptest! {
        #[test]
        fn words_and_single_bytes_mask_alike(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            phase in 0..100_usize,
        ) {
            let mut by_word = payload.clone();
            let mut by_byte = payload;
            mask(&mut by_word, key, phase);
            mask_bytewise(&mut by_byte, key, phase);
            prop_assert_eq!(by_word, by_byte);
        }

        #[test]
        fn a_payload_can_be_masked_in_pieces(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            cut in 0..100_usize,
        ) {
            let mut whole = payload.clone();
            mask(&mut whole, key, 0);

            let mut pieces = payload;
            let (head, tail) = pieces.split_at_mut(cut.min(whole.len()));
            mask(head, key, 0);
            mask(tail, key, head.len());
            prop_assert_eq!(whole, pieces);
        }
    }
}
