//! Checksums of bodies: those that senders give are checked, and those that consumers get are made.

use data_encoding::HEXUPPER;
use flotilla_proto::rocketmq::{Digest, DigestType};
use md5::{Digest as _, Md5};
use sha1::Sha1;

/// The checksum that a delivered body has: all SDKs agree about how MD5 is written.
pub(super) fn of(body: &[u8]) -> Digest {
    Digest {
        r#type: DigestType::Md5 as i32,
        checksum: HEXUPPER.encode(&Md5::digest(body)),
    }
}

/// Whether a body has a checksum. One without a type or a text says nothing; one of a type that is not known fits nothing.
pub(super) fn fits(digest: &Digest, body: &[u8]) -> bool {
    let text = digest.checksum.as_str();
    match DigestType::try_from(digest.r#type) {
        Ok(DigestType::Unspecified) => true,
        Ok(_) if text.is_empty() => true,
        Ok(DigestType::Crc32) => fits_crc32(text, crc32fast::hash(body)),
        Ok(DigestType::Md5) => text.eq_ignore_ascii_case(&HEXUPPER.encode(&Md5::digest(body))),
        Ok(DigestType::Sha1) => text.eq_ignore_ascii_case(&HEXUPPER.encode(&Sha1::digest(body))),
        Err(_) => false,
    }
}

/// The SDKs write a CRC-32 in three ways: hexadecimal with eight digits or without leading zeros, and decimal.
fn fits_crc32(text: &str, crc: u32) -> bool {
    let ways = [format!("{crc:08X}"), format!("{crc:X}"), crc.to_string()];
    ways.iter().any(|way| text.eq_ignore_ascii_case(way))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits_as(kind: DigestType, checksum: &str, body: &[u8]) -> bool {
        let digest = Digest {
            r#type: kind as i32,
            checksum: checksum.into(),
        };
        fits(&digest, body)
    }

    #[test]
    fn every_way_in_which_sdks_write_a_checksum_is_read() {
        let body = b"123456789";
        assert!(fits_as(DigestType::Crc32, "CBF43926", body));
        assert!(fits_as(DigestType::Crc32, "cbf43926", body));
        assert!(fits_as(DigestType::Crc32, "3421780262", body));
        assert!(fits_as(DigestType::Md5, "25F9E794323B453885F5181F1B624D0B", body));
        assert!(fits_as(
            DigestType::Sha1,
            "F7C3BC1D808E04732ADF679965CCC34CA7AE3441",
            body
        ));
        // A checksum that begins with zeros.
        let (body, crc) = (0_u32..)
            .map(|number| (number.to_string(), crc32fast::hash(number.to_string().as_bytes())))
            .find(|(_, crc)| *crc < 1 << 24)
            .expect("one of 256");
        assert!(fits_as(DigestType::Crc32, &format!("{crc:X}"), body.as_bytes()));
        assert!(fits_as(DigestType::Crc32, &format!("{crc:08X}"), body.as_bytes()));
    }

    #[test]
    fn a_wrong_checksum_fits_nothing() {
        for kind in [DigestType::Crc32, DigestType::Md5, DigestType::Sha1] {
            assert!(!fits_as(kind, "CBF43927", b"123456789"), "{kind:?}");
        }
        let unknown = Digest {
            r#type: 9,
            checksum: "CBF43926".into(),
        };
        assert!(!fits(&unknown, b"123456789"));
    }

    #[test]
    fn what_is_delivered_fits_its_body() {
        assert!(fits(&of(b"123456789"), b"123456789"));
        assert!(!fits(&of(b"123456789"), b"123456788"));
    }
}
