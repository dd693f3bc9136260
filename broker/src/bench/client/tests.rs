//! What a refusal means for a message, and how endpoints are read.

use super::*;

fn failure(code: mq::Code) -> Failure {
    Failure::of_status(Some(&mq::Status {
        code: code as i32,
        message: String::new(),
    }))
}

#[test]
fn failures_know_whether_the_message_may_be_stored_and_whether_to_try_again() {
    let sorted = |code| (failure(code).certain, failure(code).permanent);
    assert_eq!(sorted(mq::Code::TooManyRequests), (true, false));
    assert_eq!(sorted(mq::Code::TopicNotFound), (true, false));
    assert_eq!(sorted(mq::Code::MessageBodyTooLarge), (true, true));
    assert_eq!(sorted(mq::Code::IllegalTopic), (true, true));
    assert_eq!(sorted(mq::Code::ProxyTimeout), (false, false));
    assert_eq!(sorted(mq::Code::HaNotAvailable), (false, false));
    assert_eq!(failure(mq::Code::ProxyTimeout).what, "PROXY_TIMEOUT");
    assert!(!Failure::from(tonic::Status::unavailable("gone")).certain);
}

#[test]
fn endpoints_carry_their_kind() {
    let endpoints = endpoints_of("127.0.0.1:8081");
    assert_eq!(
        (endpoints.scheme(), endpoints.addresses[0].port),
        (mq::AddressScheme::IPv4, 8081)
    );
    let endpoints = endpoints_of("[::1]:8081");
    assert_eq!(
        (endpoints.scheme(), endpoints.addresses[0].host.as_str()),
        (mq::AddressScheme::IPv6, "::1")
    );
    assert_eq!(
        endpoints_of("broker.example:1").scheme(),
        mq::AddressScheme::DomainName
    );
}
