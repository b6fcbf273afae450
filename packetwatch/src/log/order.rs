//! The fields of a span around what is done on somebody's order.

use std::{fmt, sync::Arc};

use tracing::{
    field::{Field, Visit},
    span::Attributes,
};

use super::line::Line;

/// They are few, and known when the span begins.
#[derive(Clone, Debug)]
pub(super) struct Order(Arc<[(&'static str, Value)]>);

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Number(i64),
}

impl Order {
    pub(super) fn of(attributes: &Attributes<'_>) -> Self {
        let mut fields = Fields(Vec::new());
        attributes.record(&mut fields);
        Self(fields.0.into())
    }

    pub(super) fn write(&self, line: &mut Line<'_>) {
        for (key, value) in self.0.iter() {
            match value {
                Value::Text(text) => line.string(key, text),
                Value::Number(number) => line.bare(key, number),
            }
        }
    }
}

struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), Value::Number(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::Text(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .push((field.name(), Value::Text(format!("{value:?}"))));
    }
}
