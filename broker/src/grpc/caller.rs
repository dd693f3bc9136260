//! Who calls, from a request's metadata. Nothing is required here: SDKs send calls without any
//! metadata, and what that means is for `service/` to say.

use std::{sync::Arc, time::Duration};

use tonic::{Request, metadata::MetadataMap};

use crate::{limits::MAX_AGENT_BYTES, service::Caller};

/// Put into every request by the connection it came on.
#[derive(Debug, Clone)]
pub(super) struct RemoteHost(pub(super) Arc<str>);

/// Reads the caller of a request.
pub(super) fn caller<T>(request: &Request<T>) -> Caller {
    let metadata = request.metadata();
    let host = request
        .extensions()
        .get::<RemoteHost>()
        .map(|host| host.0.to_string());
    Caller {
        client_id: text(metadata, "x-mq-client-id"),
        language: short_text(metadata, "x-mq-language"),
        client_version: short_text(metadata, "x-mq-client-version"),
        namespace: text(metadata, "x-mq-namespace"),
        remote_host: host.unwrap_or_default(),
        deadline: metadata
            .get("grpc-timeout")
            .and_then(|value| timeout(value.to_str().ok()?)),
        forwarded: false,
        retried: false,
    }
}

fn text(metadata: &MetadataMap, name: &'static str) -> String {
    metadata
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// What is only remembered and shown, never decided by.
fn short_text(metadata: &MetadataMap, name: &'static str) -> String {
    let mut text = text(metadata, name);
    if text.len() > MAX_AGENT_BYTES {
        text.clear();
    }
    text
}

/// The gRPC form of a duration: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_all_units_and_garbage_is_none() {
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("1M"), Some(Duration::from_secs(60)));
        assert_eq!(timeout("2999m"), Some(Duration::from_millis(2999)));
        assert_eq!(timeout("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        for text in ["", "S", "3", "3s", "-3S", "123456789S", "3é", "é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    #[test]
    fn a_call_without_metadata_has_a_blank_caller() {
        let caller = caller(&Request::new(()));
        assert_eq!(
            (caller.client_id.as_str(), caller.deadline, caller.forwarded),
            ("", None, false)
        );
    }

    #[test]
    fn the_headers_of_the_sdks_are_read() {
        let mut request = Request::new(());
        for (name, value) in [
            ("x-mq-client-id", "host@1@0@abc"),
            ("x-mq-language", "JAVA"),
            ("x-mq-client-version", "5.2.1"),
            ("x-mq-namespace", ""),
            ("grpc-timeout", "3S"),
        ] {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        request.extensions_mut().insert(RemoteHost("10.0.0.9".into()));
        let caller = caller(&request);
        assert_eq!(caller.client_id, "host@1@0@abc");
        assert_eq!(caller.language, "JAVA");
        assert_eq!(caller.client_version, "5.2.1");
        assert_eq!(caller.remote_host, "10.0.0.9");
        assert_eq!(caller.deadline, Some(Duration::from_secs(3)));
    }
}
