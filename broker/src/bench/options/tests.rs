//! What is accepted on the command line, and what is refused.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn plan(line: &str) -> Result<Plan, String> {
    let words = std::iter::once("bench").chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    Plan::new(line.bench.command).map_err(|error| error.to_string())
}

#[test]
fn the_line_that_scripts_use_makes_a_plan() {
    let plan = plan(
        "produce --endpoint 127.0.0.1:8081;127.0.0.1:8181 --topic t --rate 5000 --in-flight 64 \
         --connections 2 --payload 100 --duration 30s --json out.json",
    )
    .unwrap();
    assert_eq!(plan.access, ["127.0.0.1:8081", "127.0.0.1:8181"]);
    assert_eq!(plan.produce.rate, Rate::PerSecond(5000.0));
    assert_eq!(
        (plan.producers(), plan.target.duration),
        (64, Duration::from_secs(30))
    );
    assert_eq!(plan.topics(), ["t"]);
}

#[test]
fn without_options_it_is_a_minute_at_full_speed() {
    let plan = plan("both").unwrap();
    assert_eq!((plan.produce.rate, plan.produce.payload), (Rate::Max, 1024));
    assert_eq!(plan.access, ["127.0.0.1:8081"]);
}

#[test]
fn senseless_options_are_refused_with_the_reason() {
    for (line, reason) in [
        ("produce --payload 10", "between 40"),
        ("produce --rate 0", "not a rate"),
        ("produce --duration 0s", "longer than nothing"),
        ("produce --duration never", "not a time"),
        ("produce --endpoint nowhere", "HOST:PORT"),
        ("produce --endpoint host:99999", "HOST:PORT"),
        ("produce --queues 8", "needs --http"),
        ("produce --in-flight 0", "between 1"),
        ("both --ack none", "go with `consume`"),
        ("produce --groups 3", "go with `consume`"),
        ("produce --receive-every 1s", "go with `consume`"),
        ("both --start-at last", "go with `consume`"),
    ] {
        let refusal = plan(line).unwrap_err();
        assert!(refusal.contains(reason), "{line}: {refusal}");
    }
}

#[test]
fn times_are_read_in_every_usual_unit() {
    let ms = |text| duration(text).unwrap().as_millis();
    assert_eq!(
        [ms("250ms"), ms("60s"), ms("2m"), ms("1h"), ms("7"), ms("1.5s")],
        [250, 60_000, 120_000, 3_600_000, 7_000, 1500]
    );
}

#[test]
fn a_message_group_has_one_sender() {
    assert_eq!(plan("both --message-groups 10").unwrap().producers(), 10);
    assert_eq!(plan("both --message-groups 1000").unwrap().producers(), 256);
}
