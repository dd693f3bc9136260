//! What a consumer wants of a topic's messages: everything, some tags, or what meets a condition on their properties.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use flotilla_filter::{Expression, FilterError, Kind, TAG_PROPERTY};
use flotilla_proto::record::StoredMessage;
use queue_core::tag_hash;

use crate::limits::MAX_FILTERS;

/// A filter expression, compiled. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Filter(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    id: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Everything,
    /// Hashes of tags, ascending.
    Tags(Vec<u64>),
    Condition(Expression),
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
        Ok(Self(Arc::new(Compiled { id, form })))
    }

    /// The one that lets everything through.
    pub fn everything() -> Self {
        Self(Arc::new(Compiled {
            id: 0,
            form: Form::Everything,
        }))
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

/// Filters that were compiled, by kind and text: a consumer names its own with every receive.
#[derive(Debug, Default)]
pub struct Filters(Mutex<BTreeMap<(bool, String), Filter>>);

impl Filters {
    /// The filter of this text.
    pub fn get(&self, kind: Kind, text: &str) -> Result<Filter, FilterError> {
        let key = (kind == Kind::Sql, text.to_owned());
        if let Some(known) = self.all().get(&key) {
            return Ok(known.clone());
        }
        let filter = Filter::compile(kind, text)?;
        let mut all = self.all();
        // Rarely, and then they are compiled anew.
        if all.len() >= MAX_FILTERS {
            all.clear();
        }
        all.insert(key, filter.clone());
        Ok(filter)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<(bool, String), Filter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
