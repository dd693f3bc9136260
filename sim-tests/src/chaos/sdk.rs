//! Clients of an unmodified SDK, the Python one: what a real SDK makes of cut connections, unknown outcomes and refusals is
//! judged by the same oracles as everything else.
//!
//! Each is a process that says what it is about to do, and does it when it has been written down; so what happened because of
//! it cannot be in the history before it. See `broker/tests/sdk/python/chaos.py`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::{book::Book, cleanup::Cleanup, random::Random, workload::Switches};
use crate::history::{Delivery, Event, Place, Receipt};

/// The program, from the root of the sources.
const PROGRAM: &str = "broker/tests/sdk/python/chaos.py";
/// The shortest lease the service gives, seconds.
const INVISIBLE_S: u64 = 10;
const INVISIBLE: Duration = Duration::from_secs(INVISIBLE_S);
/// What comes later than so long after it was asked for is not taken any more: its lease may be over before it is in the
/// history.
const TAKEN_WITHIN: Duration = Duration::from_secs(8);
/// Habits, as shares of all deliveries; the rest is acknowledged at once.
const FORGET: f64 = 0.03;
const HIDE: f64 = 0.05;
/// For how long, seconds.
const HIDDEN_S: std::ops::Range<u64> = 1..20;

/// What a client is told that is to end.
const END: &str = "end";

/// What a client does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Sends to topics, under this name.
    Producer(&'static str),
    /// Receives, in this consumer group.
    Consumer(&'static str),
}

/// What it says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Said {
    Sending { topic: String, id: String },
    Stored { topic: String, id: String, offset: i64 },
    Asking,
    Got { messages: Vec<Message> },
    Ending { number: usize },
    Acked { number: usize },
    AckRefused { number: usize },
    Hiding { number: usize, seconds: u64 },
    Hidden { number: usize },
    HideRefused { number: usize },
    Failed { request: String, why: String },
}

/// A message as it tells of it.
#[derive(Debug, Clone, Deserialize)]
struct Message {
    id: String,
    topic: String,
    queue: i32,
    offset: i64,
    attempt: i32,
    intact: bool,
    /// How often its lease was given another end.
    #[serde(skip)]
    changes: u32,
}

/// What is known of a client.
struct Talk {
    name: String,
    group: String,
    book: Book,
    switches: Switches,
    random: Random,
    /// When it began what it is at.
    asked: Duration,
    /// What it got last.
    got: Vec<Message>,
    /// An earlier try of what it is at may have been carried out.
    unsure: bool,
    /// For how long it hides what it hides.
    invisible: Duration,
}

/// How all of them are started.
pub(super) struct Sdk<'a> {
    pub(super) python: &'a Path,
    pub(super) topics: &'a [&'a str],
    pub(super) addresses: &'a [String],
    /// Where they keep what they say for people.
    pub(super) out: &'a Path,
    pub(super) cleanup: &'a Cleanup,
}

impl Sdk<'_> {
    /// Why there can be none, if so.
    pub(super) fn missing(&self) -> Option<String> {
        let missing = [self.python, Path::new(PROGRAM)]
            .into_iter()
            .find(|path| !path.exists())?;
        Some(format!("{} is missing", missing.display()))
    }

    /// Starts a client. A producer counts as one of `producing` until it has sent everything.
    pub(super) fn start(
        &self,
        role: Role,
        book: &Book,
        switches: &Switches,
        producing: &Arc<AtomicU32>,
        random: Random,
    ) -> io::Result<()> {
        let (word, name) = match role {
            Role::Producer(name) => ("produce", name),
            Role::Consumer(group) => ("consume", group),
        };
        let home = self.out.canonicalize()?;
        let log = File::create(home.join(format!("sdk-{word}-{name}.log")))?;
        let mut command = Command::new(self.python);
        command
            .args([
                PROGRAM,
                word,
                &self.addresses.join(";"),
                name,
                &self.topics.join(","),
            ])
            .arg(INVISIBLE_S.to_string())
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let child = self.cleanup.spawn(&mut command)?;
        let talk = Talk {
            name: format!("sdk-{word}-{name}"),
            group: name.to_owned(),
            book: book.clone(),
            switches: switches.clone(),
            random,
            asked: Duration::ZERO,
            got: Vec::new(),
            unsure: false,
            invisible: Duration::ZERO,
        };
        let producing = matches!(role, Role::Producer(_)).then(|| producing.clone());
        if let Some(producing) = &producing {
            producing.fetch_add(1, Ordering::SeqCst);
        }
        // It reads from a pipe, and waits there.
        spawn_blocking(move || {
            talk.listen(child);
            if let Some(producing) = producing {
                producing.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Ok(())
    }
}

impl Talk {
    /// Writes down what it says and answers, until it ends.
    fn listen(mut self, mut child: Child) {
        let (Some(mut answers), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            return self
                .book
                .broken(format!("run: {} cannot be listened to", self.name));
        };
        for line in BufReader::new(said).lines() {
            let said = match line.map_err(|error| error.to_string()).and_then(|line| {
                serde_json::from_str::<Said>(&line).map_err(|error| format!("{line}: {error}"))
            }) {
                Ok(said) => said,
                Err(why) => return self.book.broken(format!("run: {} said {why}", self.name)),
            };
            let answer = self.hear(said);
            let told = writeln!(answers, "{answer}").and_then(|()| answers.flush());
            if answer == END {
                return;
            }
            if told.is_err() {
                break;
            }
        }
        if !self.switches.stopped() {
            self.book.broken(format!("run: {} ended by itself", self.name));
        }
    }

    fn hear(&mut self, said: Said) -> String {
        match said {
            Said::Sending { topic, id } => {
                if self.switches.sent.load(Ordering::SeqCst) {
                    return END.into();
                }
                self.book.record(&Event::Sending { topic, id });
            }
            Said::Stored { topic, id, offset } => {
                self.book.count("sdk send stored");
                self.book.record(&Event::Stored { topic, id, offset });
            }
            Said::Asking => self.asked = self.book.now(),
            Said::Got { messages } => return self.came(messages),
            Said::Ending { number } => {
                (self.asked, self.unsure) = (self.book.now(), false);
                self.book.record(&Event::Ending(self.receipt(number)));
            }
            Said::Acked { number } => {
                self.book.count("sdk ack done");
                let (receipt, asked) = (self.receipt(number), self.asked);
                self.book.record(&Event::Acked { receipt, asked });
            }
            Said::AckRefused { number } => self.ack_refused(number),
            Said::Hiding { number, seconds } => self.hiding(number, Duration::from_secs(seconds)),
            Said::Hidden { number } => self.hidden(number),
            Said::HideRefused { number } => self.hide_refused(number),
            Said::Failed { request, why } => {
                self.unsure = true;
                self.book.count(&format!("sdk {request} failed"));
                self.book.keep(&format!("{}: {request} failed: {why}", self.name));
            }
        }
        if self.switches.stopped() {
            END.into()
        } else {
            "go".into()
        }
    }

    fn hiding(&mut self, number: usize, invisible: Duration) {
        (self.asked, self.invisible) = (self.book.now(), invisible);
        let (receipt, asked) = (self.receipt(number), self.asked);
        self.book.record(&Event::Ending(receipt.clone()));
        self.book.record(&Event::HideUnsure {
            receipt,
            asked,
            invisible,
        });
    }

    fn hidden(&mut self, number: usize) {
        self.book.count("sdk hide done");
        self.book.record(&Event::Hidden {
            receipt: self.receipt(number),
            asked: self.asked,
            invisible: self.invisible,
        });
        self.got[number].changes += 1;
    }

    fn hide_refused(&self, number: usize) {
        self.book.count("sdk hide too late");
        self.book.record(&Event::HideRefused {
            receipt: self.receipt(number),
            asked: self.asked,
            invisible: self.invisible,
        });
    }

    fn ack_refused(&self, number: usize) {
        self.book.count("sdk ack too late");
        let receipt = self.receipt(number);
        self.book.record(&match self.unsure {
            true => Event::AckUnsure(receipt),
            false => Event::EndRefused(receipt),
        });
    }

    /// Messages came; what it is to do with them.
    fn came(&mut self, messages: Vec<Message>) -> String {
        let asked = self.asked;
        if self.book.now() > asked + TAKEN_WITHIN {
            self.book.count("sdk receive too late");
            return "drop".into();
        }
        self.got = messages;
        let mut orders = vec!["go".to_owned()];
        for number in 0..self.got.len() {
            let receipt = self.receipt(number);
            self.book.count("sdk receive some");
            self.book.record(&Event::Delivered(Delivery {
                client: self.name.clone(),
                group: receipt.group,
                place: receipt.place,
                id: receipt.id,
                attempt: receipt.attempt,
                asked,
                invisible: INVISIBLE,
                renewed: false,
                intact: self.got[number].intact,
            }));
            let drawn = match self.switches.calm.load(Ordering::SeqCst) {
                true => 1.0,
                false => self.random.share(),
            };
            if drawn < FORGET {
                self.book.count("sdk consumer forgets");
            } else if drawn < FORGET + HIDE {
                orders.push(format!("hide:{number}:{}", self.random.within(HIDDEN_S)));
            } else {
                orders.push(format!("ack:{number}"));
            }
        }
        orders.join(" ")
    }

    fn receipt(&self, number: usize) -> Receipt {
        let message = &self.got[number];
        Receipt {
            group: self.group.clone(),
            place: Place {
                topic: message.topic.clone(),
                queue: message.queue,
                offset: message.offset,
            },
            id: message.id.clone(),
            attempt: message.attempt,
            changes: message.changes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chaos::run::RULES, history::History};

    fn talk(name: &str) -> Talk {
        let file = std::env::temp_dir().join(format!("chaos-sdk-{name}-{}", std::process::id()));
        let book = Book::new(History::new(["g".to_owned()].into(), RULES), &file).expect("it can be made");
        std::fs::remove_file(file).expect("it is there");
        let switches = Switches::default();
        switches.calm.store(true, Ordering::SeqCst);
        Talk {
            name: name.to_owned(),
            group: "g".to_owned(),
            book,
            switches,
            random: Random::new(1),
            asked: Duration::ZERO,
            got: Vec::new(),
            unsure: false,
            invisible: Duration::ZERO,
        }
    }

    /// Says these things; the answers.
    fn tell(talk: &mut Talk, lines: &[&str]) -> Vec<String> {
        let said = |line: &&str| serde_json::from_str(line).expect("a program says that");
        lines.iter().map(|line| talk.hear(said(line))).collect()
    }

    const SENT: [&str; 2] = [
        r#"{"event": "sending", "topic": "t", "id": "t/1"}"#,
        r#"{"event": "stored", "topic": "t", "id": "t/1", "offset": 0}"#,
    ];
    const CAME: [&str; 2] = [
        r#"{"event": "asking"}"#,
        r#"{"event": "got", "messages":
            [{"id": "t/1", "topic": "t", "queue": 0, "offset": 0, "attempt": 1, "intact": true}]}"#,
    ];
    const ENDING: &str = r#"{"event": "ending", "number": 0}"#;

    #[test]
    fn what_a_client_says_is_judged() {
        let mut talk = talk("judged");
        assert_eq!(tell(&mut talk, &SENT), ["go", "go"]);
        assert_eq!(tell(&mut talk, &CAME), ["go", "go ack:0"]);
        assert!(!talk.book.history.drained());
        tell(&mut talk, &[ENDING, r#"{"event": "acked", "number": 0}"#]);
        assert!(talk.book.history.drained());
        assert_eq!(talk.book.history.verdict(), Vec::<String>::new());
        tell(&mut talk, &CAME);
        let verdict = talk.book.history.verdict();
        let comes_again = |wrong: &String| wrong.starts_with("P4 recovered");
        assert!(verdict.iter().any(comes_again), "{verdict:?}");
    }

    #[test]
    fn a_holder_that_is_refused_at_once_is_found_and_one_that_tried_before_is_not() {
        let refused = r#"{"event": "ack-refused", "number": 0}"#;
        let failed = r#"{"event": "failed", "request": "ack", "why": "reset"}"#;
        let violations = |name, end: &[&str]| {
            let mut talk = talk(name);
            tell(&mut talk, &SENT);
            tell(&mut talk, &CAME);
            tell(&mut talk, end);
            talk.book.history.verdict().len()
        };
        assert_eq!(violations("refused", &[ENDING, refused]), 1);
        assert_eq!(violations("unsure", &[ENDING, failed, refused]), 0);
    }

    #[test]
    fn who_hides_a_message_has_another_receipt_then() {
        let mut talk = talk("hides");
        tell(&mut talk, &SENT);
        tell(&mut talk, &CAME);
        tell(
            &mut talk,
            &[
                r#"{"event": "hiding", "number": 0, "seconds": 5}"#,
                r#"{"event": "hidden", "number": 0}"#,
            ],
        );
        assert_eq!(talk.receipt(0).changes, 1);
    }

    #[test]
    fn a_producer_is_told_to_end_when_everything_is_sent() {
        let mut talk = talk("ends");
        talk.switches.sent.store(true, Ordering::SeqCst);
        assert_eq!(tell(&mut talk, &SENT[..1]), [END]);
    }
}
