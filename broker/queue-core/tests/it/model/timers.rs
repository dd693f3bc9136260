//! Messages that wait to be due: a list for each queue, with one state for each message that ever waited for it.

use flotilla_proto::record::{self, Append, Fire, Recall, Retime};
use queue_core::{RecallResult, limits::RECALLED_KEPT_MS};

use super::*;

/// What became of a message that was to wait: exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waits,
    /// Half, and checked back.
    Half,
    /// Half, and checked back no more.
    GivenUp,
    /// Known for a while.
    Committed,
    /// The same.
    RolledBack,
    /// Known for a while.
    Recalled,
    /// Known no more.
    RecalledLongAgo,
    /// Or committed long ago.
    Fired,
}

impl Fate {
    pub(super) fn has_message(self) -> bool {
        matches!(self, Fate::Waits | Fate::Half | Fate::GivenUp)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Timer {
    pub(super) queue: u64,
    pub(super) number: u64,
    pub(super) fate: Fate,
    pub(super) at: u64,
    pub(super) message: Message,
    pub(super) id: String,
    pub(super) checks: u32,
}

impl Model {
    pub(super) fn room(queue: u64) -> u64 {
        QueueId(queue).waiting_room().0
    }

    pub(super) fn timer(&mut self, queue: u64, number: u64) -> Option<&mut Timer> {
        self.timers
            .iter_mut()
            .find(|timer| (timer.queue, timer.number) == (queue, number))
    }

    /// Numbers of what ever waited for a queue.
    pub(crate) fn numbers(&self, queue: u64) -> u64 {
        self.timers.iter().filter(|timer| timer.queue == queue).count() as u64
    }

    /// What waits, where it stands meanwhile.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (u64, u64, Message)> + '_ {
        let waiting = self.timers.iter().filter(|timer| timer.fate.has_message());
        waiting.map(|timer| (Self::room(timer.queue), timer.number, timer.message.clone()))
    }

    pub(super) fn wait_for(&mut self, append: &Append, position: Position, at: u64) -> (u64, u64) {
        let queue = append.queue;
        let number = self.numbers(queue);
        let message = Message {
            group: 0,
            position,
            time_ms: self.now,
            stored_ms: self.wall,
            moved: true,
            dead: None,
        };
        self.timers.push(Timer {
            queue,
            number,
            fate: if append.half { Fate::Half } else { Fate::Waits },
            at,
            message,
            id: append.message_id.clone(),
            checks: 0,
        });
        (Self::room(queue), number)
    }

    /// What has a time that comes, the first first.
    fn coming(&self) -> Vec<&Timer> {
        let known = [Fate::Waits, Fate::Recalled, Fate::Committed, Fate::RolledBack];
        let coming = self.timers.iter().filter(|timer| known.contains(&timer.fate));
        let mut coming: Vec<&Timer> = coming.collect();
        coming.sort_by_key(|timer| (timer.at, timer.queue, timer.number));
        coming
    }

    pub(crate) fn due(&self, now: u64) -> Vec<record::Timer> {
        let due = self.coming().into_iter().filter(|timer| timer.at <= now);
        due.map(|timer| record::Timer {
            queue: timer.queue,
            timer: timer.number,
        })
        .collect()
    }

    pub(super) fn fire(&mut self, fire: &Fire) -> Reply {
        let (mut fired, mut forgotten) = (0, 0);
        for named in &fire.timers {
            let now = self.now;
            let timer = self.timer(named.queue, named.timer);
            let Some(timer) = timer.filter(|timer| timer.at <= now) else {
                continue;
            };
            match timer.fate {
                Fate::Waits => {
                    timer.fate = Fate::Fired;
                    let position = timer.message.position;
                    let offset = self.push(named.queue, position, 0, true);
                    let before = (Self::room(named.queue), named.timer);
                    let mut sent = self.sent.iter_mut().rev();
                    if let Some(sent) = sent.find(|sent| (sent.queue, sent.offset) == before) {
                        (sent.queue, sent.offset) = (named.queue, offset);
                    }
                    fired += 1;
                }
                Fate::Recalled | Fate::RolledBack => {
                    timer.fate = Fate::RecalledLongAgo;
                    forgotten += 1;
                }
                Fate::Committed => {
                    timer.fate = Fate::Fired;
                    forgotten += 1;
                }
                Fate::Half | Fate::GivenUp | Fate::Fired | Fate::RecalledLongAgo => {}
            }
        }
        Reply::Fired { fired, forgotten }
    }

    pub(super) fn recall(&mut self, recall: &Recall) -> Reply {
        let until = self.now + RECALLED_KEPT_MS;
        Reply::Recalled(match self.timer(recall.queue, recall.timer) {
            Some(timer) if timer.fate == Fate::Waits => {
                (timer.fate, timer.at) = (Fate::Recalled, until);
                RecallResult::Done
            }
            Some(timer) if timer.fate == Fate::Recalled => RecallResult::Again,
            _ => RecallResult::Over,
        })
    }

    pub(super) fn retime(&mut self, late: u64, position: Position, retime: &Retime) -> Reply {
        let at = (retime.due_ms + late).max(self.now);
        let timer = self.timer(retime.queue, retime.timer);
        let Some(timer) = timer.filter(|timer| timer.fate == Fate::Waits) else {
            return Reply::Retimed(false);
        };
        (timer.at, timer.message.position) = (at, position);
        Reply::Retimed(true)
    }

    /// False if no waiting message stands there.
    pub(super) fn copy_waiting(&mut self, room: u64, number: u64, position: Position) -> bool {
        let theirs = |timer: &&mut Timer| (Self::room(timer.queue), timer.number) == (room, number);
        let timer = self.timers.iter_mut().find(theirs);
        timer.map(|timer| timer.message.position = position).is_some()
    }

    /// One unit of the budget for each that waits or is remembered.
    pub(super) fn drop_waiting(&mut self, queue: u64, budget: &mut u32) -> bool {
        if !self.timers.iter().any(|timer| timer.queue == queue) {
            return true;
        }
        let over = [Fate::Fired, Fate::RecalledLongAgo];
        let theirs = |timer: &&mut Timer| timer.queue == queue && !over.contains(&timer.fate);
        for timer in self.timers.iter_mut().filter(theirs).take(*budget as usize) {
            timer.fate = Fate::RecalledLongAgo;
            *budget -= 1;
        }
        if *budget == 0 {
            return false;
        }
        self.timers.retain(|timer| timer.queue != queue);
        true
    }

    pub(super) fn agrees_on_timers(&self, core: &Core, kv: &dyn KeyValue) -> Result<(), String> {
        let next = self.coming().first().map(|timer| timer.at);
        equal("next that is due", core.next_due(), next)?;
        for (now, limit) in [(self.now, 2), (self.now + 700, 3), (u64::MAX, 99)] {
            let due = core.due(kv, now, limit).map_err(|fault| fault.to_string())?;
            equal("due", due, self.due(now).into_iter().take(limit).collect())?;
        }
        for timer in &self.timers {
            let room = QueueId(timer.queue).waiting_room();
            let place = core.locate(kv, room, timer.number);
            let place = place
                .map_err(|fault| fault.to_string())?
                .map(|stored| stored.position);
            let waits = timer.fate.has_message();
            equal("waits", place, waits.then_some(timer.message.position))?;
            let theirs = self.waiting().filter(|&(queue, ..)| queue == room.0);
            let count = theirs.count() as u64;
            equal("waiting", core.waiting_for(QueueId(timer.queue)), count)?;
        }
        self.agrees_on_halves(core, kv)
    }
}
