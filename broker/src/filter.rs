//! What a consumer wants of a topic's messages: everything, some tags, or what meets a condition on their properties.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use flotilla_filter::{Expression, FilterError, Kind, TAG_PROPERTY};
use flotilla_proto::record::StoredMessage;
use queue_core::tag_hash;

use crate::limits::{MAX_FILTER_BYTES, MAX_FILTERS};

/// A filter expression, compiled. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Filter(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    id: u64,
    form: Form,
    /// Bytes, and where they are counted as long as it lives.
    counted: Option<(usize, Arc<AtomicUsize>)>,
}

impl Drop for Compiled {
    fn drop(&mut self) {
        if let Some((bytes, sum)) = &self.counted {
            sum.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
enum Form {
    Everything,
    /// Hashes of tags, ascending.
    Tags(Vec<u64>),
    Condition(Expression),
}

impl Form {
    /// In memory, about.
    fn bytes(&self) -> usize {
        match self {
            Form::Everything => 0,
            Form::Tags(tags) => tags.len() * size_of::<u64>(),
            Form::Condition(expression) => expression.bytes(),
        }
    }
}

impl Filter {
    /// Compiles an expression.
    pub fn compile(kind: Kind, text: &str) -> Result<Self, FilterError> {
        let expression = Expression::compile(kind, text)?;
        let form = match expression.tags() {
            _ if expression.is_everything() => Form::Everything,
            Some(tags) => {
                let mut hashes: Vec<u64> = tags.iter().map(|tag| tag_hash(tag)).collect();
                hashes.sort_unstable();
                Form::Tags(hashes)
            }
            None => Form::Condition(expression),
        };
        let id = match form {
            Form::Everything => 0,
            _ => tag_hash(&format!("{kind:?} {text}")),
        };
        Ok(Self::of(id, form))
    }

    fn of(id: u64, form: Form) -> Self {
        Self(Arc::new(Compiled {
            id,
            form,
            counted: None,
        }))
    }

    /// The one that lets everything through.
    pub fn everything() -> Self {
        Self::of(0, Form::Everything)
    }

    /// Names the expression in the log and in what is remembered. 0 lets everything through.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// True if no message needs to be looked at.
    pub fn is_everything(&self) -> bool {
        matches!(self.0.form, Form::Everything)
    }

    /// Whether it lets a message with this tag through; nothing if the tag alone does not say.
    pub fn by_tag(&self, tag: u64) -> Option<bool> {
        match &self.0.form {
            Form::Everything => Some(true),
            Form::Tags(tags) => Some(tags.binary_search(&tag).is_ok()),
            Form::Condition(_) => None,
        }
    }

    /// Whether it lets a message through.
    pub fn by_message(&self, message: &StoredMessage) -> bool {
        match &self.0.form {
            Form::Condition(expression) => expression.matches(|name| property(message, name)),
            _ => self
                .by_tag(message.tag.as_deref().map_or(0, tag_hash))
                .expect("the tag says it"),
        }
    }
}

/// A property of a message, as conditions name it: the user's, or the tag.
fn property<'m>(message: &'m StoredMessage, name: &str) -> Option<&'m str> {
    if name == TAG_PROPERTY {
        return message.tag.as_deref();
    }
    let property = message.properties.iter().find(|property| property.key == name);
    property.map(|property| property.value.as_str())
}

/// Filters that were compiled, by kind and text: a consumer names its own with every receive. Receives that wait hold theirs, so
/// that the bytes of all are counted until the last one is gone.
#[derive(Debug, Default)]
pub struct Filters {
    known: Mutex<BTreeMap<(bool, String), Filter>>,
    bytes: Arc<AtomicUsize>,
}

/// Why there is no filter for a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFilter {
    /// It makes no sense.
    #[error(transparent)]
    Wrong(#[from] FilterError),
    /// The node holds too many.
    #[error("this node holds too many filter expressions; poll less, or use fewer different ones")]
    TooMany,
}

impl Filters {
    /// The filter of this text.
    pub fn get(&self, kind: Kind, text: &str) -> Result<Filter, NoFilter> {
        let key = (kind == Kind::Sql, text.to_owned());
        if let Some(known) = self.known().get(&key) {
            return Ok(known.clone());
        }
        let filter = Filter::compile(kind, text)?;
        if filter.is_everything() {
            return Ok(filter);
        }
        let filter = self.count(filter, text.len())?;
        let mut known = self.known();
        // Rarely, and then they are compiled anew.
        if known.len() >= MAX_FILTERS {
            known.clear();
        }
        known.insert(key, filter.clone());
        Ok(filter)
    }

    /// Counts a new one, if there is room for it.
    fn count(&self, filter: Filter, text_bytes: usize) -> Result<Filter, NoFilter> {
        let mut compiled = Arc::into_inner(filter.0).expect("it is new");
        let bytes = text_bytes + compiled.form.bytes();
        if self.bytes.load(Ordering::Relaxed) + bytes > MAX_FILTER_BYTES {
            // What nobody holds goes first.
            self.known().clear();
        }
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        compiled.counted = Some((bytes, Arc::clone(&self.bytes)));
        match before + bytes > MAX_FILTER_BYTES {
            true => Err(NoFilter::TooMany),
            false => Ok(Filter(Arc::new(compiled))),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(bool, String), Filter>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Property;

    use super::*;

    #[test]
    fn a_filter_lets_through_what_its_expression_says() {
        let message = |tag: &str| StoredMessage {
            tag: Some(tag.into()),
            properties: vec![Property {
                key: "size".into(),
                value: "7".into(),
            }],
            ..StoredMessage::default()
        };
        let red = Filter::compile(Kind::Tag, "red || green").unwrap();
        assert_eq!(red.by_tag(tag_hash("green")), Some(true));
        assert_eq!(red.by_tag(0), Some(false));
        let large = Filter::compile(Kind::Sql, "size > 5 AND TAGS = 'red'").unwrap();
        assert_eq!(large.by_tag(tag_hash("red")), None);
        assert!(large.by_message(&message("red")) && !large.by_message(&message("blue")));
        let everything = Filter::compile(Kind::Tag, "*").unwrap();
        assert!(everything.is_everything() && everything.id() == 0);
        assert_ne!(red.id(), large.id());
    }

    #[test]
    fn filters_are_bounded_by_their_bytes_whoever_holds_them() {
        let filters = Filters::default();
        let text = |number: usize| format!("a = '{}{number}'", "x".repeat(8_000));
        let mut held = Vec::new();
        let refused = (0..).find_map(|number| match filters.get(Kind::Sql, &text(number)) {
            Ok(filter) => {
                held.push(filter);
                None
            }
            Err(error) => Some(error),
        });
        assert_eq!(refused, Some(NoFilter::TooMany));
        assert!(filters.bytes.load(Ordering::Relaxed) <= MAX_FILTER_BYTES);
        drop(held);
        filters.get(Kind::Sql, &text(0)).unwrap();
        filters.known().clear();
        assert_eq!(filters.bytes.load(Ordering::Relaxed), 0);
    }
}
