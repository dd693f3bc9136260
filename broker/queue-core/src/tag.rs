//! Tags, message groups and ids, as the state knows them: by a hash, so that a filter by tag, or order within a message group, reads
//! no message.

/// The hash of a message's tag. Never 0, which is no tag. It stands in logs, so it never changes (FNV-1a, 64 bits).
pub fn tag_hash(tag: &str) -> u64 {
    hash_of(tag)
}

/// The hash of a message group. Never 0, which is none. Two that have one hash wait for each other, and are in order.
pub fn message_group_hash(message_group: &str) -> u64 {
    hash_of(message_group)
}

/// The hash of a message id. Never 0.
pub fn message_id_hash(message_id: &str) -> u64 {
    hash_of(message_id)
}

fn hash_of(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
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
