//! What somebody waits for: one command, or several that are one unit.
//!
//! Several stand in one entry, one beside the other and in their order. An entry is in the log as a whole or not at all,
//! so they are, too, whatever becomes of the leader.

use flotilla_proto::record::Command;
use prost::Message;
use queue_core::Reply;
use tokio::sync::oneshot;

use super::{
    super::lanes::{Lane, Weight},
    SubmitError,
};
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, MAX_COMMAND_BYTES};

/// What becomes of a proposal: a reply, or one for each command, or why there is none.
pub type Answer<T> = oneshot::Receiver<Result<T, SubmitError>>;

/// Commands that are put into an entry together, and who waits for them.
pub(super) enum Proposal {
    One(Command, oneshot::Sender<Result<Reply, SubmitError>>),
    All(Vec<Command>, oneshot::Sender<Result<Vec<Reply>, SubmitError>>),
}

impl Proposal {
    /// One command that fits.
    pub(super) fn one(command: Command) -> Result<(Proposal, Weight, Answer<Reply>), SubmitError> {
        let bytes = command.encoded_len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(SubmitError::TooLarge(bytes));
        }
        let (sender, answer) = oneshot::channel();
        Ok((
            Proposal::One(command, sender),
            Weight { commands: 1, bytes },
            answer,
        ))
    }

    /// Several that fit together.
    pub(super) fn all(commands: Vec<Command>) -> Result<(Proposal, Weight, Answer<Vec<Reply>>), SubmitError> {
        let weight = Weight {
            commands: commands.len(),
            bytes: commands.iter().map(Message::encoded_len).sum(),
        };
        if weight.bytes > MAX_BATCH_BYTES || weight.commands > MAX_BATCH_COMMANDS {
            return Err(SubmitError::BatchTooLarge(weight.commands, weight.bytes));
        }
        let (sender, answer) = oneshot::channel();
        Ok((Proposal::All(commands, sender), weight, answer))
    }

    /// Its commands, in order.
    pub(super) fn commands(&self) -> &[Command] {
        match self {
            Proposal::One(command, _) => std::slice::from_ref(command),
            Proposal::All(commands, _) => commands,
        }
    }

    /// Its lane: that of its first command, as all are for one purpose.
    pub(super) fn lane(&self) -> Lane {
        self.commands().first().map_or(Lane::Send, Lane::of)
    }

    /// Takes its commands' replies from those of its entry, and hands them out. The caller may have given up; the commands
    /// stand all the same.
    pub(super) fn answer(self, replies: &mut impl Iterator<Item = Reply>) {
        match self {
            Proposal::One(_, sender) => {
                let reply = replies.next().expect("one reply for each command");
                let _ = sender.send(Ok(reply));
            }
            Proposal::All(commands, sender) => {
                let _ = sender.send(Ok(replies.take(commands.len()).collect()));
            }
        }
    }

    /// Says why there is no reply.
    pub(super) fn refuse(self, error: SubmitError) {
        match self {
            Proposal::One(_, sender) => drop(sender.send(Err(error))),
            Proposal::All(_, sender) => drop(sender.send(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_proto::record::{Append, command};
    use proptest::prelude::*;
    use queue_core::{QueueId, frame};

    use super::*;

    fn append(number: u64, bytes: usize) -> Command {
        let append = Append {
            queue: 1,
            message_id: number.to_string(),
            message: Bytes::from(vec![0; bytes]),
            ..Append::default()
        };
        Command {
            command: Some(command::Command::Append(append)),
        }
    }

    fn stored(number: u64) -> Reply {
        Reply::Appended {
            queue: QueueId(1),
            offset: number,
            duplicate: false,
        }
    }

    #[test]
    fn what_is_too_large_as_a_whole_is_refused_as_a_whole() {
        let half = MAX_BATCH_BYTES / 2;
        let refused = Proposal::all(vec![append(0, half), append(1, half)]).err();
        assert!(matches!(refused, Some(SubmitError::BatchTooLarge(2, bytes)) if bytes > MAX_BATCH_BYTES));
        assert!(Proposal::all(vec![append(0, half), append(1, half - 100)]).is_ok());
        let many = (0..=MAX_BATCH_COMMANDS as u64)
            .map(|number| append(number, 1))
            .collect();
        assert!(Proposal::all(many).is_err());
    }

    proptest! {
        /// Any mixture of single commands and batches, cut into entries as the lanes cut them.
        #[test]
        fn a_batch_is_in_one_entry_in_its_order_and_has_its_own_replies(
            sizes in prop::collection::vec(0usize..9, 1..40),
            entry_commands in 1usize..12,
        ) {
            let bounds = crate::limits::Bounds { entry_commands, ..Default::default() };
            let mut lanes = super::super::Lanes::new(bounds);
            let (mut next, mut waiting) = (0, Vec::new());
            for size in sizes {
                let numbers = next..next + size.max(1) as u64;
                next = numbers.end;
                let commands: Vec<_> = numbers.clone().map(|number| append(number, 8)).collect();
                let (proposal, weight) = if size == 0 {
                    let (proposal, weight, answer) = Proposal::one(commands[0].clone()).unwrap();
                    waiting.push((numbers, Err(answer)));
                    (proposal, weight)
                } else {
                    let (proposal, weight, answer) = Proposal::all(commands).unwrap();
                    waiting.push((numbers, Ok(answer)));
                    (proposal, weight)
                };
                prop_assert!(lanes.push(proposal.lane(), proposal, weight, 0).is_ok());
            }
            let mut entries = Vec::new();
            while !lanes.is_empty() {
                let mut batch = super::super::Batch::new();
                lanes.fill(&mut batch, true);
                let most = batch.items.iter().map(|proposal| proposal.commands().len()).max().unwrap_or(0);
                let mut entry = frame::EntryBuilder::new(0, 0);
                for command in batch.items.iter().flat_map(Proposal::commands) {
                    entry.push(command);
                }
                let frames = frame::decode_entry(&entry.finish()).unwrap().frames;
                let numbers: Vec<u64> = frames.map(|frame| number_of(&frame.unwrap().2)).collect();
                prop_assert_eq!(numbers.len(), batch.commands);
                prop_assert!(numbers.len() <= entry_commands.max(most));
                let mut replies = numbers.iter().map(|&number| stored(number));
                batch.items.into_iter().for_each(|proposal| proposal.answer(&mut replies));
                prop_assert!(replies.next().is_none());
                entries.push(numbers);
            }
            prop_assert!(entries.iter().flatten().copied().eq(0..next));
            for (numbers, answer) in waiting {
                let (first, count) = (numbers.start, numbers.clone().count());
                let entry = entries.iter().find(|entry| entry.contains(&first)).unwrap();
                prop_assert!(numbers.clone().all(|number| entry.contains(&number)), "one entry");
                let replies = match answer {
                    Ok(mut all) => all.try_recv().unwrap().unwrap(),
                    Err(mut one) => vec![one.try_recv().unwrap().unwrap()],
                };
                prop_assert_eq!(replies.len(), count);
                prop_assert!(replies.into_iter().eq(numbers.map(stored)));
            }
        }
    }

    fn number_of(command: &Command) -> u64 {
        match &command.command {
            Some(command::Command::Append(append)) => append.message_id.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}
