//! Holds the compiled client interface to the tables it was written from (`wire-tables.md`):
//! a slip in a number, a type or a name would only show up as a misbehaving SDK.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const TABLES: &str = include_str!("wire-tables.md");
const PACKAGE: &str = "apache.rocketmq.v2";

/// One line per entity, e.g. `field Address 2 single int32 port`; two interfaces are equal if the sets are.
type Facts = BTreeSet<String>;

// ---- the tables ------------------------------------------------------------------

fn facts_of_tables(text: &str) -> Facts {
    let mut facts = Facts::new();
    let mut section: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            let (kind, name) = title
                .split_once(' ')
                .expect("a section names its kind and its entity");
            facts.insert(format!("{kind} {name}"));
            section = Some((kind, name));
        } else if let (Some((kind, name)), Some(row)) = (section, line.strip_prefix("| ")) {
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            match (kind, cells.as_slice()) {
                (_, ["RPC" | "Number" | "#", ..]) => {}
                ("service", [rpc, request, response, streams]) => {
                    facts.insert(format!("rpc {name} {rpc} {request} {response} {streams}"));
                }
                ("enum", [number, value]) => {
                    facts.insert(format!("value {name} {number} {value}"));
                }
                ("message", [number, label, kind, field]) => {
                    facts.insert(format!("field {name} {number} {label} {kind} {field}"));
                }
                _ => panic!("a row that belongs nowhere: {line}"),
            }
        }
    }
    facts
}

// ---- the descriptors -------------------------------------------------------------

fn facts_of_descriptors(set: &FileDescriptorSet) -> Facts {
    let mut facts = Facts::new();
    for file in set.file.iter().filter(|file| file.package() == PACKAGE) {
        for service in &file.service {
            facts.insert(format!("service {}", service.name()));
            for method in &service.method {
                let streams = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (false, true) => "server stream",
                    (true, false) => "client stream",
                    (true, true) => "bidirectional stream",
                };
                facts.insert(format!(
                    "rpc {} {} {} {} {streams}",
                    service.name(),
                    method.name(),
                    short(method.input_type()),
                    short(method.output_type()),
                ));
            }
        }
        for item in &file.enum_type {
            facts_of_enum("", item, &mut facts);
        }
        for message in &file.message_type {
            facts_of_message("", message, &mut facts);
        }
    }
    facts
}

fn facts_of_enum(scope: &str, item: &EnumDescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}{}", item.name());
    facts.insert(format!("enum {name}"));
    for value in &item.value {
        facts.insert(format!("value {name} {} {}", value.number(), value.name()));
    }
}

fn facts_of_message(scope: &str, message: &DescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let (label, kind) = label_and_type(message, field);
        facts.insert(format!(
            "field {name} {} {label} {kind} {}",
            field.number(),
            field.name()
        ));
    }
    let scope = format!("{name}.");
    for item in &message.enum_type {
        facts_of_enum(&scope, item, facts);
    }
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        facts_of_message(&scope, nested, facts);
    }
}

fn label_and_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> (String, String) {
    let kind = type_of(field);
    if field.label() == Label::Repeated {
        let entry = message.nested_type.iter().find(|nested| {
            is_map_entry(nested)
                && kind.rsplit('.').next() == Some(nested.name())
                && field.r#type() == Type::Message
        });
        return match entry {
            Some(entry) => {
                let types: Vec<String> = entry.field.iter().map(type_of).collect();
                ("map".to_owned(), format!("map<{}>", types.join(", ")))
            }
            None => ("repeated".to_owned(), kind),
        };
    }
    let label = match field.oneof_index {
        _ if field.proto3_optional() => "optional".to_owned(),
        Some(index) => format!(
            "oneof {}",
            message.oneof_decl[usize::try_from(index).unwrap()].name()
        ),
        None => "single".to_owned(),
    };
    (label, kind)
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn short(type_name: &str) -> &str {
    let full = type_name.trim_start_matches('.');
    full.strip_prefix(PACKAGE)
        .map_or(full, |rest| rest.trim_start_matches('.'))
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}

// ---- the comparison ----------------------------------------------------------------

fn compiled() -> FileDescriptorSet {
    FileDescriptorSet::decode(flotilla_proto::DESCRIPTORS).expect("the build wrote a descriptor set")
}

fn differences(tables: &str, set: &FileDescriptorSet) -> Vec<String> {
    let (wanted, found) = (facts_of_tables(tables), facts_of_descriptors(set));
    let missing = wanted
        .difference(&found)
        .map(|fact| format!("only in the tables: {fact}"));
    let extra = found
        .difference(&wanted)
        .map(|fact| format!("only compiled: {fact}"));
    missing.chain(extra).collect()
}

#[test]
fn the_compiled_interface_equals_the_tables() {
    let differences = differences(TABLES, &compiled());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_tables_are_complete() {
    let facts = facts_of_tables(TABLES);
    let count = |kind: &str| {
        facts
            .iter()
            .filter(|fact| fact.split(' ').next() == Some(kind))
            .count()
    };
    let counts = ["service", "rpc", "enum", "value", "message", "field"].map(count);
    assert_eq!(counts, [2, 33, 17, 128, 106, 365]);
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    set.file
        .iter_mut()
        .filter(|file| file.package() == PACKAGE)
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == name)
        .expect("such a message")
}

fn field<'a>(set: &'a mut FileDescriptorSet, of: &str, name: &str) -> &'a mut FieldDescriptorProto {
    message(set, of)
        .field
        .iter_mut()
        .find(|field| field.name() == name)
        .expect("such a field")
}

#[test]
fn every_kind_of_slip_in_the_descriptors_is_noticed() {
    type Slip = fn(&mut FileDescriptorSet);
    let slips: [(&str, Slip); 13] = [
        ("a field number", |set| {
            field(set, "Address", "port").number = Some(3)
        }),
        ("a field name", |set| {
            field(set, "Address", "port").name = Some("ports".into())
        }),
        ("a scalar type", |set| {
            field(set, "Address", "port").set_type(Type::Int64)
        }),
        ("a message type", |set| {
            field(set, "Message", "topic").type_name = Some(".apache.rocketmq.v2.Digest".into());
        }),
        ("a lost presence", |set| {
            field(set, "SystemProperties", "tag").proto3_optional = None
        }),
        ("a repeated field made single", |set| {
            field(set, "SystemProperties", "keys").set_label(Label::Optional)
        }),
        ("a field out of its oneof", |set| {
            field(set, "Settings", "publishing").oneof_index = None
        }),
        ("a map of another value type", |set| {
            message(set, "Message").nested_type[0].field[1].set_type(Type::Bytes);
        }),
        ("a map that is only repeated", |set| {
            message(set, "Message").nested_type[0].options = None;
        }),
        ("a lost field", |set| message(set, "Broker").field.truncate(2)),
        ("a lost nested message", |set| {
            message(set, "QueryTimeSpanResponse").nested_type.clear()
        }),
        ("an enum number", |set| {
            let file = set
                .file
                .iter_mut()
                .find(|file| !file.enum_type.is_empty())
                .unwrap();
            file.enum_type[0].value[1].number = Some(7);
        }),
        ("a stream made unary", |set| {
            let method = set.file.iter_mut().filter(|file| file.package() == PACKAGE);
            let mut method = method
                .flat_map(|file| &mut file.service)
                .flat_map(|service| &mut service.method);
            method
                .find(|method| method.name() == "Telemetry")
                .unwrap()
                .client_streaming = None;
        }),
    ];
    for (what, slip) in slips {
        let mut set = compiled();
        slip(&mut set);
        assert!(!differences(TABLES, &set).is_empty(), "not noticed: {what}");
    }
}

#[test]
fn a_dropped_or_changed_row_is_noticed() {
    let compiled = facts_of_descriptors(&compiled());
    let rows = TABLES.lines().filter(|line| line.starts_with("| "));
    for row in rows.filter(|row| {
        !["| RPC", "| Num", "| # |"]
            .iter()
            .any(|head| row.starts_with(head))
    }) {
        // By its place, not by its text: different messages have equal rows.
        let at = row.as_ptr() as usize - TABLES.as_ptr() as usize;
        let dropped = [&TABLES[..at], TABLES[at + row.len()..].trim_start()].concat();
        assert_ne!(
            facts_of_tables(&dropped),
            compiled,
            "dropping went unnoticed: {row}"
        );
    }
    let changed = TABLES.replacen(
        "| 13 | single | int32 | queue_id |",
        "| 31 | single | int32 | queue_id |",
        1,
    );
    assert_ne!(facts_of_tables(&changed), compiled);
}
