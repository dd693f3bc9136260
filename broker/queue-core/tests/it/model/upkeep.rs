//! What retention and administrators ask for: messages are forgotten and moved, rules change, names go.

use super::*;

impl Model {
    pub(super) fn trim(&mut self, trim: &Trim) -> Reply {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == trim.queue) else {
            return Reply::Trimmed {
                first: 0,
                more: false,
            };
        };
        let mut left = trim.limit;
        while (queue.first as u64) < trim.first && queue.first < queue.messages.len() && left > 0 {
            for sub in self.subs.iter_mut().filter(|sub| sub.queue == trim.queue) {
                if let Some(state) = sub
                    .state(queue.first as u64)
                    .filter(|state| matches!(state, State::New | State::Blocked))
                {
                    *state = State::Trimmed;
                }
            }
            queue.first += 1;
            left -= 1;
        }
        let more = (queue.first as u64) < trim.first && queue.first < queue.messages.len();
        Reply::Trimmed {
            first: queue.first as u64,
            more,
        }
    }

    pub(super) fn copy_forward(&mut self, position: Position, copy: &CopyForward) -> Reply {
        if !self
            .kept()
            .iter()
            .any(|&(queue, offset, _)| (queue, offset) == (copy.queue, copy.offset))
        {
            return Reply::Copied(false);
        }
        if self.copy_waiting(copy.queue, copy.offset, position) {
            return Reply::Copied(true);
        }
        let queue = self
            .queues
            .iter_mut()
            .find(|queue| queue.id == copy.queue)
            .unwrap();
        let message = &mut queue.messages[copy.offset as usize];
        (message.position, message.moved) = (position, true);
        Reply::Copied(true)
    }

    pub(super) fn configure(&mut self, configure: &Configure) -> Reply {
        match &configure.what {
            None => Reply::Refused(Refusal::Malformed),
            Some(What::Subscribe(rules)) if rules.deletions < self.deletions => {
                Reply::Refused(Refusal::Behind)
            }
            Some(What::Subscribe(rules)) => {
                self.subscribe(rules);
                Reply::Configured { more: false }
            }
            Some(What::Rules(rules)) => {
                self.deletions = self.deletions.max(rules.deletions);
                self.take_rules(rules);
                Reply::Configured { more: false }
            }
            Some(What::DropQueue(drop)) => {
                self.deletions = self.deletions.max(drop.deletions);
                let mut budget = drop.limit;
                let groups: Vec<u32> = self
                    .subs
                    .iter()
                    .filter(|sub| sub.queue == drop.queue)
                    .map(|sub| sub.group)
                    .collect();
                let done = groups.is_sorted()
                    && groups
                        .iter()
                        .all(|&group| self.drop_sub(group, drop.queue, &mut budget))
                    && self.drop_waiting(drop.queue, &mut budget)
                    && self.drop_messages(drop.queue, &mut budget);
                Reply::Configured { more: !done }
            }
            Some(What::DropGroup(drop)) => {
                self.deletions = self.deletions.max(drop.deletions);
                let mut budget = drop.limit;
                let queues: Vec<u64> = self
                    .subs
                    .iter()
                    .filter(|sub| sub.group == drop.group)
                    .map(|sub| sub.queue)
                    .collect();
                let done = queues
                    .iter()
                    .all(|&queue| self.drop_sub(drop.group, queue, &mut budget));
                Reply::Configured { more: !done }
            }
        }
    }

    /// On all queues that the consumer group is on, unless newer ones are known; those that count now.
    fn take_rules(&mut self, rules: &Subscribe) -> Subscribe {
        let mut rules = rules.clone();
        rules.backoff = rules.backoff.filter(|backoff| backoff.strategy.is_some());
        let newest = self.subs.iter().find(|sub| sub.group == rules.group);
        if let Some(newest) = newest.filter(|known| known.rules.version > rules.version) {
            rules = Subscribe {
                queue: rules.queue,
                start_at: rules.start_at,
                ..newest.rules.clone()
            };
        }
        let known = self.subs.iter().find(|sub| sub.group == rules.group);
        rules.fifo = known.map_or(rules.fifo, |known| known.rules.fifo);
        for sub in self.subs.iter_mut().filter(|sub| sub.group == rules.group) {
            sub.rules = rules.clone();
        }
        rules
    }

    pub(super) fn subscribe(&mut self, rules: &Subscribe) {
        let rules = self.take_rules(rules);
        if self.sub(rules.group, rules.queue).is_some() {
            return;
        }
        let (first, next) = self
            .queue(rules.queue)
            .map_or((0, 0), |queue| (queue.first, queue.messages.len()));
        let start = if rules.start_at == StartAt::Last as i32 {
            next
        } else {
            first
        };
        let states = vec![State::New; next - start];
        self.subs.push(Sub {
            group: rules.group,
            queue: rules.queue,
            rules,
            start,
            epoch: 0,
            last_seek: 0,
            seeks_to: None,
            states,
            extra: BTreeMap::new(),
            redriven: 0,
            revived: Vec::new(),
            notes: BTreeMap::new(),
            left: BTreeMap::new(),
        });
        self.subs.sort_by_key(|sub| (sub.queue, sub.group));
    }

    pub(super) fn seek(&mut self, seek: &Seek) -> Reply {
        let ends = self.queue(seek.queue);
        let (first, next) = ends.map_or((0, 0), |queue| (queue.first, queue.messages.len()));
        let messages = ends.map_or(Vec::new(), |queue| queue.messages.clone());
        let Some(sub) = self.sub_mut(seek.group, seek.queue) else {
            return Reply::Refused(Refusal::NoSubscription);
        };
        if sub.epoch != seek.epoch {
            let is_done = sub.last_seek == seek.id && sub.epoch == seek.epoch + 1;
            return match is_done {
                true => Reply::Sought {
                    at: Some(sub.start as u64),
                },
                false => Reply::Refused(Refusal::Outdated),
            };
        }
        sub.last_seek = seek.id;
        let to = (seek.to as usize).clamp(first, next);
        let mut left = seek.limit as usize;
        let held: Vec<InFlightView> = sub.in_flight().into_iter().take(left).collect();
        for view in held {
            let offset = view.offset;
            let sub = self.sub(seek.group, seek.queue).unwrap();
            let notes = sub
                .notes
                .get(&offset)
                .map_or(Vec::new(), |notes| letters::last(notes));
            let was_given_back = notes.iter().any(|note| note.what == queue_core::What::Redriven);
            let nobody_knows = view.parked || (was_given_back && (offset as usize) < first);
            let is_letter = nobody_knows && (offset as usize) < to;
            if !is_letter || !self.bury(seek.group, seek.queue, offset) {
                self.set(seek.group, seek.queue, offset, State::Sought);
            }
            left -= 1;
        }
        let sub = self.sub_mut(seek.group, seek.queue).unwrap();
        if sub.in_flight().is_empty() {
            sub.end_blocked(&messages, left, State::Sought);
        }
        if !sub.in_flight().is_empty() || sub.count(|state| *state == State::Blocked) > 0 {
            sub.seeks_to = Some(seek.to);
            return Reply::Sought { at: None };
        }
        let at = (seek.to as usize).clamp(first, next);
        (sub.start, sub.states) = (at, vec![State::New; next - at]);
        (sub.epoch, sub.seeks_to) = (sub.epoch + 1, None);
        sub.extra.clear();
        (sub.redriven, sub.revived) = (0, Vec::new());
        Reply::Sought { at: Some(at as u64) }
    }

    /// One unit of the budget for each message in flight, one for the subscription.
    pub(super) fn drop_sub(&mut self, group: u32, queue: u64, budget: &mut u32) -> bool {
        for view in self.sub(group, queue).unwrap().in_flight() {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.set(group, queue, view.offset, State::Acked);
        }
        let messages = self
            .queue(queue)
            .map_or(Vec::new(), |queue| queue.messages.clone());
        let sub = self.sub_mut(group, queue).unwrap();
        *budget -= sub.end_blocked(&messages, *budget as usize, State::Acked) as u32;
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        self.subs.retain(|sub| (sub.group, sub.queue) != (group, queue));
        true
    }

    /// One unit of the budget for each message, one for the queue.
    pub(super) fn drop_messages(&mut self, id: u64, budget: &mut u32) -> bool {
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.id == id) {
            while *budget > 0 && queue.first < queue.messages.len() {
                queue.first += 1;
                *budget -= 1;
            }
        }
        if *budget == 0 {
            return false;
        }
        self.queues.retain(|queue| queue.id != id);
        true
    }
}

impl Sub {
    /// What was passed over of so many message groups at most is over, those with the smallest hash first. Says how many.
    fn end_blocked(&mut self, messages: &[Message], limit: usize, end: State) -> usize {
        let blocked = |sub: &Self| {
            let states = sub.states.iter().enumerate();
            let blocked = states.filter(|(_, state)| **state == State::Blocked);
            blocked
                .map(|(at, _)| (messages[sub.start + at].group, at))
                .collect::<Vec<_>>()
        };
        let mut groups: Vec<u64> = blocked(self).into_iter().map(|(group, _)| group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.truncate(limit);
        for (group, at) in blocked(self) {
            if groups.contains(&group) {
                self.states[at] = end.clone();
            }
        }
        groups.len()
    }
}
