//! Tags, as the state knows them: by a hash, so that a filter by tag reads no message.

/// The hash of a message's tag. Never 0, which is no tag. It stands in logs, so it never changes (FNV-1a, 64 bits).
pub fn tag_hash(tag: &str) -> u64 {
    let hash = tag.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_tag_never_changes() {
        // Known values of the function.
        assert_eq!(tag_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(tag_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(tag_hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
