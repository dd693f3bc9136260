//! What time and the absence of clients do to leases.

use super::*;

impl Model {
    /// What push consumers have leased: by client, not written out before written out, earliest end first.
    pub(super) fn held(&self) -> Vec<(u64, u32, InFlightView)> {
        let mut held = Vec::new();
        for sub in &self.subs {
            let theirs = sub
                .in_flight()
                .into_iter()
                .filter(|view| view.leased && view.auto_renew);
            held.extend(theirs.map(|view| (sub.queue, sub.group, view)));
        }
        held.sort_by_key(|&(queue, group, view)| {
            (view.client, view.written, view.at_ms, queue, group, view.offset)
        });
        held
    }

    pub(super) fn written(&mut self, late: u64, written: &Written) -> Reply {
        let mut changed = 0;
        for named in &written.leases {
            for &offset in &named.offsets {
                let lease = LeaseRef {
                    offset,
                    nonce: named.nonce,
                };
                let view = self.named(named.group, named.queue, &lease);
                let Some(view) = view.filter(|view| view.auto_renew && !view.written) else {
                    continue;
                };
                let at_ms = view.at_ms.max(written.until_ms + late);
                let view = InFlightView {
                    written: true,
                    departed: false,
                    at_ms,
                    ..view
                };
                self.set(named.group, named.queue, offset, State::Leased(view));
                changed += 1;
            }
        }
        Reply::Prolonged { changed, more: false }
    }

    pub(super) fn renew(&mut self, late: u64, renew: &Renew) -> Reply {
        let before_ms = renew.before_ms + late;
        let mut due = self.held();
        due.retain(|(_, _, view)| {
            view.written && view.at_ms < before_ms && view.first_leased_ms >= renew.since_ms
        });
        due.retain(|(_, _, view)| renew.clients.contains(&view.client));
        self.end_at(due, renew.limit, |view| InFlightView {
            at_ms: (renew.until_ms + late).max(before_ms),
            ..view
        })
    }

    pub(super) fn depart(&mut self, late: u64, depart: &Depart) -> Reply {
        let at_ms = (depart.at_ms + late).max(self.now);
        let mut theirs = self.held();
        theirs.retain(|(_, _, view)| view.written || view.at_ms > at_ms);
        theirs.retain(|(_, _, view)| depart.clients.contains(&view.client));
        theirs.sort_by_key(|(_, _, view)| (view.client, !view.written));
        self.end_at(theirs, depart.limit, |view| InFlightView {
            written: false,
            departed: true,
            at_ms: view.at_ms.min(at_ms),
            ..view
        })
    }

    pub(super) fn end_at(
        &mut self,
        mut leases: Vec<(u64, u32, InFlightView)>,
        limit: u32,
        end: impl Fn(InFlightView) -> InFlightView,
    ) -> Reply {
        let more = leases.len() > limit as usize;
        leases.truncate(limit as usize);
        for &(queue, group, view) in &leases {
            self.set(group, queue, view.offset, State::Leased(end(view)));
        }
        let changed = leases.len() as u32;
        Reply::Prolonged { changed, more }
    }

    /// (deadline, queue, group, offset) of every lease, earliest first.
    pub(super) fn leases(&self) -> Vec<(u64, u64, u32, u64)> {
        let mut leases = Vec::new();
        for sub in &self.subs {
            let leased = sub.in_flight().into_iter().filter(|view| view.leased);
            leases.extend(leased.map(|view| (view.at_ms, sub.queue, sub.group, view.offset)));
        }
        leases.sort_unstable();
        leases
    }

    /// Leases that are over then, with their ends, earliest first.
    pub(crate) fn expiries(&self, now: u64) -> Vec<(u64, Expiry)> {
        let mut over = self.leases();
        over.retain(|&(deadline, ..)| deadline <= now);
        let expiry = |(deadline, queue, group, offset)| {
            let sub = self.sub(group, queue).unwrap();
            let view = *sub.clone().state(offset).unwrap().view().unwrap();
            let exhausted = view.attempt >= sub.rules.max_attempts;
            (
                deadline,
                Expiry {
                    group,
                    queue,
                    offset,
                    exhausted,
                },
            )
        };
        over.into_iter().map(expiry).collect()
    }

    pub(super) fn tick(&mut self, tick: &Tick) -> Reply {
        let (mut expired, mut dead_lettered) = (0, 0);
        for expiry in &tick.expiries {
            let (group, queue, offset) = (expiry.group, expiry.queue, expiry.offset);
            let over = self.expiries(self.now);
            let Some((deadline, _)) = over.into_iter().find(|(_, over)| over == expiry) else {
                continue;
            };
            expired += 1;
            let sub = self.sub(group, queue).unwrap();
            let view = *sub.clone().state(offset).unwrap().view().unwrap();
            let last = expiry.exhausted;
            let what = if view.departed {
                Became::Departed
            } else {
                Became::TimedOut
            };
            let wait = if last || view.written {
                sub.wait(view.attempt)
            } else {
                0
            };
            let end = match last {
                true => self.give_up(group, queue, offset, what),
                false => {
                    self.note(group, queue, offset, what);
                    None
                }
            };
            dead_lettered += u32::from(end == Some(ReleaseResult::DeadLettered));
            if end.is_none() {
                let view = *self
                    .sub_mut(group, queue)
                    .unwrap()
                    .state(offset)
                    .unwrap()
                    .view()
                    .unwrap();
                let waiting = InFlightView {
                    leased: false,
                    at_ms: deadline + wait,
                    ..view
                };
                self.set(group, queue, offset, State::Waiting(waiting));
            }
        }
        Reply::Ticked {
            expired,
            dead_lettered,
            more: !self.expiries(self.now).is_empty(),
        }
    }
}
