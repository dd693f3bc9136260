//! Where a core and the model differ.

use queue_core::InOrder;

use super::*;

impl Model {
    /// Says where a core differs from the model.
    pub(crate) fn agrees(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        equal("time", core.now_ms(), self.now)?;
        let mut queues: Vec<(QueueId, QueueView)> = Vec::new();
        for queue in &self.queues {
            let view = QueueView {
                first: queue.first as u64,
                next: queue.messages.len() as u64,
            };
            queues.push((QueueId(queue.id), view));
            let kept = self.kept();
            for offset in 0..view.next + 2 {
                let stored = core
                    .locate(kv, QueueId(queue.id), offset)
                    .map_err(|fault| fault.to_string())?;
                let expected = kept.iter().find(|kept| (kept.0, kept.1) == (queue.id, offset));
                let expected =
                    expected.map(|(_, _, message)| (message.position, message.time_ms, message.stored_ms));
                let stored = stored.map(|stored| (stored.position, stored.time_ms, stored.stored_ms));
                equal("place", (queue.id, offset, stored), (queue.id, offset, expected))?;
            }
        }
        queues.sort_by_key(|&(id, _)| id);
        equal("queues", core.queues().collect::<Vec<_>>(), queues)?;
        equal("subscriptions", core.subscriptions().count(), self.subs.len())?;
        for sub in &self.subs {
            self.agrees_on(core, kv, sub)?;
        }
        let leases = self.leases();
        equal(
            "next deadline",
            core.next_deadline(),
            leases.first().map(|lease| lease.0),
        )?;
        let over = self
            .expiries(self.now + 700)
            .into_iter()
            .map(|(_, expiry)| expiry);
        equal(
            "leases that are over",
            core.expiries(self.now + 700, 3),
            over.take(3).collect(),
        )?;
        let mut holders: Vec<(u64, Option<u64>)> = Vec::new();
        for (_, _, view) in self.held() {
            let written = view.written.then_some(view.at_ms);
            match holders.last_mut().filter(|(client, _)| *client == view.client) {
                Some((_, earliest)) => *earliest = earliest.or(written),
                None => holders.push((view.client, written)),
            }
        }
        for (from, limit) in [(0, 99), (0, 2), (103, 1)] {
            let some = holders.iter().filter(|(client, _)| *client >= from).take(limit);
            equal("holders", core.holders(from, limit), some.copied().collect())?;
        }
        self.agrees_on_timers(core, kv)?;
        self.agrees_on_letters(core, kv)?;
        self.agrees_on_entries(core, kv)
    }

    fn agrees_on(&self, core: &Core, kv: &dyn KeyValue, sub: &Sub) -> Result<(), String> {
        let messages = self.queue(sub.queue).map_or(&[][..], |queue| &queue.messages);
        let (group, queue) = (GroupId(sub.group), QueueId(sub.queue));
        let view = core
            .subscription(group, queue)
            .ok_or("a subscription is missing")?;
        let new = sub.count(|state| *state == State::New);
        let due = sub.due(self.now);
        let waiting = sub.count(|state| matches!(state, State::Waiting(_)));
        // The conservation law: the model's states, one for each message, against the core's counts.
        equal("ready", view.ready, new + due.len() as u64)?;
        equal("waiting", view.waiting, waiting - due.len() as u64)?;
        equal(
            "leased",
            view.leased,
            sub.count(|state| matches!(state, State::Leased(_))),
        )?;
        equal(
            "blocked",
            view.blocked,
            sub.count(|state| *state == State::Blocked),
        )?;
        equal("acked", view.acked, sub.count(|state| *state == State::Acked))?;
        equal(
            "dead lettered",
            view.dead_lettered,
            sub.count(|state| *state == State::Dead),
        )?;
        let parked = sub.in_flight().iter().filter(|view| view.parked).count();
        equal(
            "parked and redriven",
            (view.parked, view.redriven),
            (parked as u64, sub.redriven),
        )?;
        equal(
            "trimmed",
            view.trimmed,
            sub.count(|state| *state == State::Trimmed),
        )?;
        equal(
            "filtered",
            view.filtered,
            sub.count(|state| *state == State::Filtered),
        )?;
        equal("sought", view.sought, sub.count(|state| *state == State::Sought))?;
        equal("seek", (view.epoch, view.seeks_to), (sub.epoch, sub.seeks_to))?;
        equal("cursor", view.cursor, sub.cursor() as u64)?;
        equal("attempts", view.max_attempts, sub.rules.max_attempts)?;
        equal("backoff", view.backoff, sub.rules.backoff.clone())?;
        equal(
            "dead-letter queue",
            view.dead_letter_queue,
            QueueId(sub.rules.dead_letter_queue),
        )?;
        let states = sub.states.iter().enumerate();
        let states = states.map(|(at, state)| ((sub.start + at) as u64, state));
        for (offset, state) in states.chain(sub.extra.iter().map(|(&offset, state)| (offset, state))) {
            equal(
                "in flight",
                core.in_flight(group, queue, offset),
                state.view().copied(),
            )?;
        }
        let visible = sub.turns(messages).first().map(|&(at_ms, _)| at_ms);
        let visible = visible.filter(|_| !sub.rules.paused);
        equal("next visible", core.next_visible(group, queue), visible)?;
        for request in 1..3 {
            let had = sub
                .in_flight()
                .into_iter()
                .filter(|view| repeats(view, self.now) && view.request == request)
                .filter(|_| !sub.rules.paused && sub.seeks_to.is_none());
            let had = had.map(|view| (queue, view.offset)).collect::<Vec<_>>();
            let mut found = core.had_by(request, group, queue.topic(), 99);
            found.retain(|(of, _)| *of == queue);
            equal("had by a request", found, had)?;
        }
        if sub.rules.fifo {
            for (max, page) in [(0, 9), (2, 3), (9, 1), (99, 99)] {
                let expected = match sub.seeks_to.is_some() || sub.rules.paused {
                    true => InOrder::default(),
                    false => sub.in_order(messages, self.now, max, page),
                };
                let found = core
                    .in_order(kv, (group, queue), 0, (max, usize::MAX, page))
                    .map_err(|fault| fault.to_string())?;
                equal("in order", found, expected)?;
            }
            return Ok(());
        }
        for (max, most) in [(0, 9), (2, 3), (9, 1), (9, 99)] {
            let mut redeliver: Vec<u64> = due.iter().take(max).map(|view| view.offset).collect();
            redeliver.sort_unstable();
            let room = (max - redeliver.len()).min(most - sub.in_flight().len().min(most)) as u64;
            let chosen = Selection {
                redeliver,
                first_new: sub.cursor() as u64,
                new_count: room.min(new) as u32,
            };
            let chosen = match sub.seeks_to.is_some() || sub.rules.paused {
                true => Selection::default(),
                false => chosen,
            };
            equal("selection", core.selectable(group, queue, 0, max, most), chosen)?;
        }
        Ok(())
    }

    fn agrees_on_entries(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        let kept = self.kept();
        let oldest = kept.iter().map(|(_, _, message)| message.position.index).min();
        equal(
            "oldest live entry",
            core.oldest_live_index(kv).map_err(|fault| fault.to_string())?,
            oldest,
        )?;
        let newest = kept
            .iter()
            .map(|(_, _, message)| message.position.index)
            .max()
            .unwrap_or(0);
        for through in [0, newest / 2, newest, u64::MAX] {
            let first = |id| self.queue(id).map_or(0, |queue| queue.first as u64);
            let mut expected: Vec<(QueueId, u64, Position)> = kept
                .iter()
                .filter(|(queue, offset, message)| message.moved || *offset < first(*queue))
                .filter(|(_, _, message)| message.position.index <= through)
                .map(|(queue, offset, message)| (QueueId(*queue), *offset, message.position))
                .collect();
            expected.sort_unstable();
            let mut found = core
                .stragglers(kv, through, 99, u64::MAX)
                .map_err(|fault| fault.to_string())?;
            found.sort_unstable();
            equal("stragglers", &found, &expected)?;
            for limit in 0..3 {
                let some = core
                    .stragglers(kv, through, limit, u64::MAX)
                    .map_err(|fault| fault.to_string())?;
                equal("how many stragglers", some.len(), expected.len().min(limit))?;
                equal("straggler", some.iter().all(|one| expected.contains(one)), true)?;
            }
        }
        Ok(())
    }
}

pub(super) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, core: T, model: T) -> Result<(), String> {
    if core == model {
        return Ok(());
    }
    Err(format!("{what}: the core says {core:?}, the model {model:?}"))
}
