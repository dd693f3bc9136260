//! What a part of a snapshot must consist of to be taken.

use super::{super::piece::split_records, *};

#[test]
fn records_that_are_not_those_that_follow_are_refused() {
    let two = Bytes::from([&record(5)[..], &record(6)[..]].concat());
    assert_eq!(split_records(SHARD, 5, 9, two.clone()).unwrap().len(), 2);
    for (shard, from, last) in [(SHARD + 1, 5, 9), (SHARD, 4, 9), (SHARD, 6, 9), (SHARD, 5, 5)] {
        assert!(split_records(shard, from, last, two.clone()).is_err());
    }
    for len in (1..two.len()).step_by(997) {
        let cut = split_records(SHARD, 5, 9, two.slice(..len));
        assert!(cut.is_err(), "{len} bytes");
    }
    let newer = crate::record::tests::of_kind(99, &record(6));
    let newer = split_records(SHARD, 5, 9, Bytes::from([&record(5)[..], &newer].concat()));
    assert_eq!(newer.unwrap_err().kind(), io::ErrorKind::Unsupported);
    let vote = Record::encode(Kind::Vote, SHARD, id(5), b"");
    assert!(split_records(SHARD, 5, 9, vote).is_err());
}

#[test]
fn pairs_out_of_their_place_are_refused() {
    let mut data = bytes::BytesMut::new();
    for key in [b"b", b"c"] {
        piece::put_pair(&mut data, key, b"value");
    }
    let data = data.freeze();
    let key = |key: &'static [u8]| Bytes::from_static(key);
    let split = |from, to, data| piece::split_pairs(&from, &to, data);
    let pairs = split(key(b"b"), Place::Pair(key(b"d")), data.clone()).unwrap();
    assert_eq!(pairs[1], (key(b"c"), key(b"value")));
    assert!(split(key(b"bb"), Place::End, data.clone()).is_err());
    assert!(split(key(b"b"), Place::Pair(key(b"c")), data.clone()).is_err());
    for len in (1..data.len()).filter(|len| *len != data.len() / 2) {
        assert!(
            split(key(b"b"), Place::End, data.slice(..len)).is_err(),
            "{len} bytes"
        );
    }
}
