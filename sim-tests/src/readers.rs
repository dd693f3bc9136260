//! Which messages are for which consumer groups.

use std::{collections::BTreeSet, sync::Arc};

/// Tells by its id whether a message is wanted.
type Wants = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The consumer groups that were made for all messages. One of them may not want each.
#[derive(Clone, Default)]
pub struct Readers {
    groups: BTreeSet<String>,
    choosy: Option<(String, Wants)>,
    /// Those that get the messages of each message group in order.
    fifo: BTreeSet<String>,
}

impl Readers {
    /// This one wants only some messages.
    #[must_use]
    pub fn with_choosy(self, group: String, wants: impl Fn(&str) -> bool + Send + Sync + 'static) -> Readers {
        Readers {
            choosy: Some((group, Arc::new(wants))),
            ..self
        }
    }

    /// These want order.
    #[must_use]
    pub fn with_order(self, fifo: BTreeSet<String>) -> Readers {
        Readers { fifo, ..self }
    }

    /// The message group in which a message comes in order to a consumer group, if it does.
    #[must_use]
    pub fn order_of<'a>(&self, group: &str, id: &'a str) -> Option<&'a str> {
        message_group_of(id).filter(|_| self.fifo.contains(group))
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }

    /// The groups that a message is for.
    pub fn of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a String> + 'a {
        self.groups.iter().filter(|group| self.wants(group, id))
    }

    /// Whether a consumer group wants a message. Others than these want all.
    #[must_use]
    pub fn wants(&self, group: &str, id: &str) -> bool {
        let choosy = self.choosy.as_ref().filter(|(name, _)| name == group);
        choosy.is_none_or(|(_, wants)| wants(id))
    }
}

impl FromIterator<String> for Readers {
    fn from_iter<I: IntoIterator<Item = String>>(groups: I) -> Self {
        Readers {
            groups: groups.into_iter().collect(),
            choosy: None,
            fifo: BTreeSet::new(),
        }
    }
}

impl<const N: usize> From<[String; N]> for Readers {
    fn from(groups: [String; N]) -> Self {
        groups.into_iter().collect()
    }
}

/// Ids of messages end with their message group, if they have one.
#[must_use]
pub fn message_group_of(id: &str) -> Option<&str> {
    id.split_once('@').map(|(_, message_group)| message_group)
}
