//! The benchmark as scripts run it: real processes, a server that does nothing, a report.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

const FLOTILLA: &str = env!("CARGO_BIN_EXE_flotilla");

fn noop_server() -> (Child, String) {
    let mut child = Command::new(FLOTILLA)
        .args(["bench", "noop-server", "--keep"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut address)
        .expect("it says where it listens");
    (child, address.trim().to_owned())
}

fn bench(line: &str, folder: &std::path::Path) -> (ExitStatus, serde_json::Value) {
    let report = folder.join("report.json");
    let status = Command::new(FLOTILLA)
        .arg("bench")
        .args(line.split_whitespace())
        .args([
            "--warmup",
            "100ms",
            "--duration",
            "500ms",
            "--in-flight",
            "8",
            "--patience",
            "2s",
            "--json",
        ])
        .arg(&report)
        .arg("--calibrate-dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the program starts");
    let json = std::fs::read(report).map(|text| serde_json::from_slice(&text).expect("it is JSON"));
    (status, json.unwrap_or_default())
}

#[test]
fn every_mode_is_measured_against_a_noop_server_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, address) = noop_server();
    for mode in ["produce", "both", "produce --rate 500", "consume"] {
        let (status, report) = bench(
            &format!("{mode} --endpoint {address} --calibrate-for 500ms"),
            folder.path(),
        );
        if mode == "consume" {
            // Everything has been read back by the runs before: there is nothing to consume.
            assert_eq!(
                (status.code(), &report["consumed"]["received"]),
                (Some(1), &0.into())
            );
        } else {
            assert!(status.success(), "{mode}: {report:#}");
            assert_eq!(report["verification"]["lost"], 0, "{mode}");
        }
        assert!(report["ratio_to_noop"].as_f64().is_some(), "{mode}: {report:#}");
        assert!(
            report["calibration"]["noop_messages_per_second"]
                .as_f64()
                .unwrap()
                > 0.0,
            "{mode}"
        );
        assert!(
            report["calibration"]["disk"][0]["syncs_per_second"]
                .as_f64()
                .unwrap()
                > 0.0,
            "{mode}"
        );
    }
    drop(server.stdin.take());
    assert!(server.wait().expect("it ends with its parent").success());
}

#[test]
fn exit_codes_tell_wrong_use_from_an_absent_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let absent = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (usage, _) = bench("produce --payload 1", folder.path());
    let (unreachable, _) = bench(
        &format!("produce --http {absent} --endpoint {absent}"),
        folder.path(),
    );
    assert_eq!((usage.code(), unreachable.code()), (Some(2), Some(3)));
}
