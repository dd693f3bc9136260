//! What the nodes say about themselves over HTTP, and what the system says about processes: disk
//! syncs, written bytes, processor time. Topics and consumer groups are created here too.

use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};

use super::BenchError;
use super::limits::MAX_HTTP_BODY;
use super::options::Plan;

const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// A cluster may take this long to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const READING_TIMEOUT: Duration = Duration::from_secs(1);
/// Topics are created that many at a time.
const CREATING: usize = 16;

/// The nodes and processes that are watched.
pub(super) struct Nodes {
    http: Vec<String>,
    pids: Vec<u32>,
}

/// All figures of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    client_cpu_seconds: f64,
    nodes: Vec<Option<NodeReading>>,
    processes: Vec<Option<ProcessReading>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct NodeReading {
    syncs: f64,
    written_bytes: f64,
    cpu_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ProcessReading {
    cpu_seconds: f64,
    written_bytes: f64,
}

/// What the load cost between two readings. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Cost {
    /// Mean over the nodes.
    pub syncs_per_1000_messages: Option<f64>,
    /// Mean over the nodes.
    pub disk_bytes_per_payload_byte: Option<f64>,
    pub cpu_us_per_message: CpuCost,
    pub nodes: Vec<NodeCost>,
    pub processes: Vec<ProcessCost>,
}

/// Microseconds of processor time per message.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct CpuCost {
    pub client: f64,
    pub servers: Option<f64>,
    pub total: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct NodeCost {
    pub http: String,
    pub syncs: Option<f64>,
    pub written_bytes: Option<f64>,
    pub cpu_seconds: Option<f64>,
    pub syncs_per_1000_messages: Option<f64>,
    pub disk_bytes_per_payload_byte: Option<f64>,
    /// It was restarted meanwhile: its figures count from the restart, and are too small.
    pub restarted: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ProcessCost {
    pub pid: u32,
    pub cpu_seconds: Option<f64>,
    pub written_bytes: Option<f64>,
    pub disk_bytes_per_payload_byte: Option<f64>,
}

impl Nodes {
    /// Processes without an HTTP interface, for calibration.
    pub(super) fn of_processes(pids: Vec<u32>) -> Self {
        Self {
            http: Vec::new(),
            pids,
        }
    }

    /// The nodes of a plan; a single one is asked for the others.
    ///
    /// # Errors
    /// If a node named with `--http` does not answer.
    pub(super) async fn discover(plan: &Plan) -> Result<Self, BenchError> {
        let mut http = plan.http.clone();
        if let [only] = http.as_slice() {
            let (status, body) = call(only, Method::GET, "/v1/cluster", None).await?;
            let cluster: Value = serde_json::from_slice(&body).unwrap_or_default();
            let nodes = cluster["nodes"].as_array().filter(|_| status.is_success());
            let others = nodes
                .into_iter()
                .flatten()
                .filter_map(|node| node["http_addr"].as_str());
            let others: Vec<String> = others
                .filter(|address| !address.is_empty())
                .map(str::to_owned)
                .collect();
            // The list names the node itself, perhaps under another address: the list alone counts.
            if !others.is_empty() {
                http = others;
            }
        }
        Ok(Self {
            http,
            pids: plan.target.pids.clone(),
        })
    }

    /// Creates topics and consumer groups that do not exist. The groups start at the first message:
    /// a group that starts at the end would miss what is sent before its first receive.
    ///
    /// # Errors
    /// If a node refuses for another reason than that they exist.
    pub(super) async fn create(
        &self,
        plan: &Plan,
        topics: &[String],
        groups: &[String],
    ) -> Result<(), BenchError> {
        let Some(address) = plan.http.first() else {
            return Ok(());
        };
        let fifo = plan.produce.message_groups > 0;
        let topic = |name: &String| {
            let kind = if fifo { "FIFO" } else { "NORMAL" };
            let mut body = json!({ "name": name, "message_type": kind });
            if let Some(queues) = plan.target.queues {
                body["queues"] = queues.into();
            }
            ("/v1/topics", format!("creating topic {name}"), body)
        };
        let group = |name: &String| {
            let body = json!({ "name": name, "fifo": fifo, "start_at": plan.consume.start_at.name() });
            (
                "/v1/consumer-groups",
                format!("creating consumer group {name}"),
                body,
            )
        };
        let wishes = topics.iter().map(topic).chain(groups.iter().map(group));
        let calls = wishes.map(|(path, what, body)| create_one(address, path, what, body));
        let mut calls = futures::stream::iter(calls).buffer_unordered(CREATING);
        while let Some(result) = calls.next().await {
            result?;
        }
        Ok(())
    }

    /// The figures of this moment; a node that does not answer within a second has none.
    pub(super) async fn readings(&self) -> Readings {
        let nodes = self.http.iter().map(|address| async move {
            let answer =
                tokio::time::timeout(READING_TIMEOUT, call(address, Method::GET, "/metrics", None)).await;
            let (status, body) = answer.ok()?.ok()?;
            status
                .is_success()
                .then(|| node_reading(&String::from_utf8_lossy(&body)))
        });
        Readings {
            nodes: futures::future::join_all(nodes).await,
            client_cpu_seconds: process_cpu_seconds("self").unwrap_or(0.0),
            processes: self
                .pids
                .iter()
                .map(|pid| process_reading(&pid.to_string()))
                .collect(),
        }
    }

    /// What `messages` of `payload` bytes each cost between two readings.
    pub(super) fn cost(&self, before: &Readings, after: &Readings, messages: u64, payload: usize) -> Cost {
        let messages = messages as f64;
        let bytes = messages * payload as f64;
        let per = |value: Option<f64>, of: f64| value.filter(|_| of > 0.0).map(|value| value / of);
        let nodes: Vec<NodeCost> = (0..self.http.len())
            .map(|at| {
                let change = after.nodes[at].map(|after| since(before.nodes[at], after));
                let (reading, restarted) = change.unzip();
                let syncs = reading.map(|reading| reading.syncs);
                let written_bytes = reading.map(|reading| reading.written_bytes);
                NodeCost {
                    http: self.http[at].clone(),
                    syncs,
                    written_bytes,
                    cpu_seconds: reading.map(|reading| reading.cpu_seconds),
                    syncs_per_1000_messages: per(syncs, messages / 1000.0),
                    disk_bytes_per_payload_byte: per(written_bytes, bytes),
                    restarted: restarted.unwrap_or(false),
                }
            })
            .collect();
        let processes: Vec<ProcessCost> = (0..self.pids.len())
            .map(|at| {
                let change = before.processes[at].zip(after.processes[at]);
                let written_bytes = change.map(|(before, after)| after.written_bytes - before.written_bytes);
                ProcessCost {
                    pid: self.pids[at],
                    cpu_seconds: change.map(|(before, after)| after.cpu_seconds - before.cpu_seconds),
                    written_bytes,
                    disk_bytes_per_payload_byte: per(written_bytes, bytes),
                }
            })
            .collect();
        // /proc is exact and independent of what the nodes claim.
        let servers = if processes.is_empty() {
            mean(nodes.iter().map(|node| node.cpu_seconds)).map(|mean| mean * nodes.len() as f64)
        } else {
            mean(processes.iter().map(|one| one.cpu_seconds)).map(|mean| mean * processes.len() as f64)
        };
        let client = after.client_cpu_seconds - before.client_cpu_seconds;
        let micros = |seconds: f64| {
            if messages > 0.0 {
                seconds * 1e6 / messages
            } else {
                0.0
            }
        };
        Cost {
            syncs_per_1000_messages: mean(nodes.iter().map(|node| node.syncs_per_1000_messages)),
            disk_bytes_per_payload_byte: mean(nodes.iter().map(|node| node.disk_bytes_per_payload_byte))
                .or_else(|| mean(processes.iter().map(|one| one.disk_bytes_per_payload_byte))),
            cpu_us_per_message: CpuCost {
                client: micros(client),
                servers: servers.map(micros),
                total: servers.map(|servers| micros(servers + client)),
            },
            nodes,
            processes,
        }
    }
}

/// Creates one thing that may exist; a cluster that is just coming up is waited for.
async fn create_one(address: &str, path: &str, what: String, body: Value) -> Result<(), BenchError> {
    let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
    loop {
        let (status, answer) = call(address, Method::POST, path, Some(&body)).await?;
        if status.is_success() || status == StatusCode::CONFLICT {
            return Ok(());
        }
        if status != StatusCode::SERVICE_UNAVAILABLE || tokio::time::Instant::now() > deadline {
            let answer = format!("{status} {}", String::from_utf8_lossy(&answer));
            return Err(BenchError::Refused { what, answer });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// The mean, if all values are known and there are any.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Option<Vec<f64>> = values.collect();
    values
        .filter(|all| !all.is_empty())
        .map(|all| all.iter().sum::<f64>() / all.len() as f64)
}

/// The change since a reading, and whether the counters began anew in between.
fn since(before: Option<NodeReading>, after: NodeReading) -> (NodeReading, bool) {
    match before {
        Some(before) if before.cpu_seconds <= after.cpu_seconds && before.syncs <= after.syncs => {
            let change = NodeReading {
                syncs: after.syncs - before.syncs,
                written_bytes: after.written_bytes - before.written_bytes,
                cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            };
            (change, false)
        }
        _ => (after, true),
    }
}

fn node_reading(metrics: &str) -> NodeReading {
    NodeReading {
        syncs: metric(metrics, "flotilla_log_syncs_total"),
        written_bytes: metric(metrics, "flotilla_log_written_bytes_total"),
        cpu_seconds: metric(metrics, "process_cpu_seconds_total"),
    }
}

/// The sum over all labels of one metric in the Prometheus text format.
fn metric(text: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with([' ', '{']))?;
        let values = rest.rsplit_once('}').map_or(rest, |(_, values)| values);
        values.split_whitespace().next()?.parse::<f64>().ok()
    };
    text.lines().filter_map(value).sum()
}

fn process_reading(pid: &str) -> Option<ProcessReading> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
    Some(ProcessReading {
        cpu_seconds: process_cpu_seconds(pid)?,
        written_bytes: written.trim().parse().ok()?,
    })
}

/// User and system time of a process from /proc.
pub(super) fn process_cpu_seconds(pid: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_ticks(&stat).map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Fields 14 and 15; the name in field 2 may contain anything, so counting starts behind it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// One HTTP request with its whole answer.
///
/// # Errors
/// If nobody answers in time, or with more than fits.
async fn call(
    address: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), BenchError> {
    let unreachable = |cause: String| BenchError::Unreachable {
        what: "the HTTP interface".to_owned(),
        address: address.to_owned(),
        cause,
    };
    let exchange = async {
        let socket = tokio::net::TcpStream::connect(address)
            .await
            .map_err(|cause| cause.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|cause| cause.to_string())?;
        // It ends with the answer; what breaks it shows up there.
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", address)
            .header("connection", "close")
            .header("content-type", "application/json")
            .body(Full::new(
                body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
            ))
            .map_err(|cause| cause.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|cause| cause.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_HTTP_BODY)
            .collect()
            .await
            .map_err(|cause| cause.to_string())?;
        Ok((status, body.to_bytes()))
    };
    match tokio::time::timeout(HTTP_TIMEOUT, exchange).await {
        Ok(result) => result.map_err(unreachable),
        Err(_) => Err(unreachable(format!("no answer in {} s", HTTP_TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels_and_not_confused_with_longer_names() {
        let text = "# HELP flotilla_log_syncs_total Syncs.\n# TYPE flotilla_log_syncs_total counter\n\
                    flotilla_log_syncs_total{file=\"a b\"} 5\nflotilla_log_syncs_total{file=\"{}\"} 7 1700000000\n\
                    flotilla_log_syncs_total_more 100\nprocess_cpu_seconds_total 1.5e1\n";
        assert_eq!(metric(text, "flotilla_log_syncs_total"), 12.0);
        assert_eq!(metric(text, "process_cpu_seconds_total"), 15.0);
        assert_eq!(metric(text, "absent"), 0.0);
    }

    #[test]
    fn processor_time_is_read_past_any_process_name() {
        let stat = "4242 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100 200 300";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert!(process_cpu_seconds("self").is_some());
    }

    #[test]
    fn costs_are_per_node_and_a_restart_is_told() {
        let nodes = Nodes {
            http: vec!["a".into(), "b".into()],
            pids: Vec::new(),
        };
        let reading = |syncs, written_bytes, cpu_seconds| {
            Some(NodeReading {
                syncs,
                written_bytes,
                cpu_seconds,
            })
        };
        let before = Readings {
            client_cpu_seconds: 1.0,
            nodes: vec![reading(100.0, 1e6, 10.0), reading(500.0, 1e6, 20.0)],
            processes: Vec::new(),
        };
        let after = Readings {
            client_cpu_seconds: 2.0,
            nodes: vec![reading(200.0, 3e6, 11.0), reading(50.0, 1e6, 1.0)],
            processes: Vec::new(),
        };
        let cost = nodes.cost(&before, &after, 10_000, 100);
        assert_eq!(cost.nodes[0].syncs_per_1000_messages, Some(10.0));
        assert_eq!(cost.nodes[0].disk_bytes_per_payload_byte, Some(2.0));
        assert_eq!((cost.nodes[0].restarted, cost.nodes[1].restarted), (false, true));
        assert_eq!(cost.syncs_per_1000_messages, Some(7.5));
        assert_eq!(
            cost.cpu_us_per_message,
            CpuCost {
                client: 100.0,
                servers: Some(200.0),
                total: Some(300.0)
            }
        );
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let nodes = Nodes {
            http: vec!["a".into()],
            pids: Vec::new(),
        };
        let silent = Readings {
            nodes: vec![None],
            ..Readings::default()
        };
        let cost = nodes.cost(&silent, &silent, 10, 100);
        assert_eq!(
            (cost.syncs_per_1000_messages, cost.cpu_us_per_message.total),
            (None, None)
        );
    }
}
