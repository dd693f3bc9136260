//! SendMessage: each message until it is acknowledged, or at times refused for want of room, by itself or with others,
//! mostly to a node that the route names; the same message id every time.

use std::{collections::BTreeSet, time::Duration};

use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::sleep;
use tracing::debug;

use super::{Context, now};
use crate::{
    client::Failure,
    history::Event,
    letter::{Letter, Wrong},
};

/// Share of sends that go to any node, whatever it leads.
const ANY_NODE: f64 = 0.2;
/// Share of sends before which a message is sent that no topic takes.
const WRONG: f64 = 0.02;
/// Share of sends that are given up when there is no room for them.
const GIVES_UP: f64 = 0.5;
/// In some worlds: share of requests with several messages that are given up when nobody knows what became of the first try.
const QUITS: f64 = 0.3;
/// Most messages of one request.
const TOGETHER: u32 = 5;
/// Message groups of a producer, where there are any.
const GROUPS: u32 = 3;

pub(super) async fn produce(context: Context, id: u32) {
    let mut number = 0;
    while number < context.plan.messages {
        let topic = context.plan.topic(thread_rng().gen_range(0..context.plan.topics));
        let together = match context.plan.batches {
            true => thread_rng().gen_range(1..=TOGETHER),
            false => 1,
        };
        let numbers = number..context.plan.messages.min(number + together);
        number = numbers.end;
        // Those of one request have one message group, which their ids say.
        let group = context.plan.ordered.then(|| thread_rng().gen_range(0..GROUPS));
        let group = group.map_or(String::new(), |group| format!("@{id}.{group}"));
        let letters: Vec<_> = numbers
            .map(|number| letter(&context, format!("{topic}/{id}-{number:04}{group}")))
            .collect();
        if thread_rng().gen_bool(WRONG) {
            let wrong = |what: &str| letter(&context, letters[0].0.replacen('-', &format!("-{what}-"), 1));
            let mut some = vec![wrong("wrong")];
            if context.plan.batches {
                some.push(wrong("beside"));
            }
            send_wrong(&context, &topic, &some).await;
        }
        send(&context, &topic, letters).await;
        let pause = thread_rng().gen_range(context.plan.pause_ms.clone());
        sleep(Duration::from_millis(pause)).await;
    }
}

fn letter(context: &Context, id: String) -> (String, Letter) {
    let letter = Letter::of(&id, context.plan.body);
    (id, letter)
}

/// Something that no topic takes, once, by itself or beside a good message: none of it is stored.
async fn send_wrong(context: &Context, topic: &str, letters: &[(String, Letter)]) {
    let any = thread_rng().gen_range(1..=context.plan.nodes);
    let node = context.home().unwrap_or(any);
    let wrong = *Wrong::ALL.choose(&mut thread_rng()).expect("there are some");
    for (id, _) in letters {
        let (topic, id) = (topic.to_owned(), id.clone());
        context.record(&Event::Sending { topic, id });
    }
    let sent = context.client.send(node, topic, Some(wrong), letters);
    let answer = sent
        .await
        .and_then(|all| all.into_iter().collect::<Result<Vec<_>, _>>());
    debug!(at = ?now(), id = letters[0].0, node, ?wrong, ?answer, "sent what must be refused");
    match answer {
        Err(Failure::Status(code, _)) if code == wrong.code() => {
            context.coverage.count("send refused");
            give_up(context, letters);
        }
        // The node had no time to look at it.
        Err(failure) => context.failed("send", node, &failure),
        Ok(_) => {
            let what = format!("{:?} is stored, and wrong: {wrong:?}", letters[0].0);
            context.history.broken(what);
        }
    }
}

async fn send(context: &Context, topic: &str, letters: Vec<(String, Letter)>) {
    let mut route = Vec::new();
    let mut turn = thread_rng().gen_range(0..context.plan.nodes);
    let (mut stored, mut tries) = (BTreeSet::new(), 0);
    // Whoever sent several repeats them all: where they go follows from the first.
    while stored.len() < letters.len() {
        turn += 1;
        if route.is_empty() {
            let asked = context.home().unwrap_or(1 + turn % context.plan.nodes);
            match context.client.route(asked, topic, context.plan.queues).await {
                Ok(nodes) => route = nodes,
                Err(failure) => context.failed("route", asked, &failure),
            }
            if route.is_empty() {
                context.pause().await;
                continue;
            }
        }
        // An old route, or a client that knows one node only: then the request has one hop more.
        let node = match context.home() {
            Some(home) => home,
            None if thread_rng().gen_bool(ANY_NODE) => 1 + turn % context.plan.nodes,
            None => route[turn as usize % route.len()],
        };
        let undone = send_once(context, node, topic, &letters, &mut stored).await;
        tries += 1;
        // Whoever is told so may leave it at that, and then the message never comes.
        if undone && tries == 1 && thread_rng().gen_bool(GIVES_UP) {
            context.coverage.count("send given up");
            return give_up(context, &letters);
        }
        // What was stored of them nobody mends then.
        let quits = context.plan.quits && letters.len() > 1 && tries == 1;
        if quits && stored.is_empty() && thread_rng().gen_bool(QUITS) {
            context.coverage.count("send several given up");
            return;
        }
        if stored.len() < letters.len() {
            route.clear();
            context.pause().await;
        }
    }
}

fn give_up(context: &Context, letters: &[(String, Letter)]) {
    for (id, _) in letters {
        let id = id.clone();
        context.record(&Event::Refused { id });
    }
}

/// One request; adds what is known to be stored. True if nothing was done, and the service says so.
async fn send_once<'a>(
    context: &Context,
    node: u32,
    topic: &str,
    letters: &'a [(String, Letter)],
    stored: &mut BTreeSet<&'a str>,
) -> bool {
    for (id, _) in letters {
        let (topic, id) = (topic.to_owned(), id.clone());
        context.record(&Event::Sending { topic, id });
    }
    if letters.len() > 1 {
        let ids = letters.iter().map(|(id, _)| id.clone()).collect();
        context.record(&Event::Together { ids });
        context.coverage.count("send several");
    }
    let answers = match context.client.send(node, topic, None, letters).await {
        Ok(answers) => answers,
        Err(failure) => letters.iter().map(|_| Err(failure.clone())).collect(),
    };
    judge_whole(context, letters, &answers);
    let undone = answers.iter().all(|answer| {
        answer
            .as_ref()
            .is_err_and(|failure| context.says_not_done(failure))
    });
    for ((id, _), answer) in letters.iter().zip(answers) {
        debug!(at = ?now(), id, node, ?answer, "sent");
        match answer {
            Ok(offset) => {
                context.coverage.count("send stored");
                stored.insert(id);
                let (topic, id) = (topic.to_owned(), id.clone());
                context.record(&Event::Stored { topic, id, offset });
            }
            Err(failure) => context.failed("send", node, &failure),
        }
    }
    undone
}

/// What was sent together is stored one behind the other, or nothing of it.
fn judge_whole(context: &Context, letters: &[(String, Letter)], answers: &[Result<i64, Failure>]) {
    let Some(Ok(first)) = answers.first() else {
        if answers.iter().any(Result::is_ok) {
            let what = format!("P7 torn batch: {:?} is stored in part: {answers:?}", letters[0].0);
            context.history.broken(what);
        }
        return;
    };
    let expected = (*first..).take(answers.len());
    if !answers
        .iter()
        .map(|answer| answer.as_ref().ok().copied())
        .eq(expected.map(Some))
    {
        let what = format!(
            "P7 torn batch: {:?} and what was sent with it stand at {answers:?}",
            letters[0].0
        );
        context.history.broken(what);
    }
}
