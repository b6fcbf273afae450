//! From a tracing event to a line.

use std::{cell::Cell, fmt, sync::Arc};

use time::OffsetDateTime;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{
    LogFormat,
    action::{Action, DENIED_CONNECTION},
    events::Events,
    fields::{Fields, Message},
    line::Line,
    order::Order,
    writer::Queue,
};

pub(super) const ECS_VERSION: &str = "8.17.0";

/// The target that `tracing-log` gives every record of the `log` crate; the real one is a field.
const BRIDGED: &str = "log";

thread_local! {
    /// Taken while a line is written, so that a `Display` which logs finds an empty one.
    static TEXT: Cell<String> = const { Cell::new(String::new()) };
}

pub(super) struct Ecs {
    format: LogFormat,
    queue: Queue,
    events: Events,
}

impl Ecs {
    pub(super) fn new(format: LogFormat, queue: Queue, events: Events) -> Self {
        Self {
            format,
            queue,
            events,
        }
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Ecs {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() == super::EVENT
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().insert(Order::of(attributes));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut head = Head::of(event);
        if head.action.is_some() {
            let mut spans = context.event_scope(event).into_iter().flatten();
            head.order = spans.find_map(|span| span.extensions().get::<Order>().cloned());
        }
        let line = encode(event, &head, self.format);
        if head.action.is_some() {
            let json = match self.format {
                LogFormat::Json => Arc::clone(&line),
                LogFormat::Text => encode(event, &head, LogFormat::Json),
            };
            self.events.push(json);
        }
        self.queue.push(line);
    }
}

fn encode(event: &Event<'_>, head: &Head, format: LogFormat) -> Arc<str> {
    let metadata = event.metadata();
    let bridged = metadata.target() == BRIDGED;
    // Fails while the thread's locals are being destroyed.
    let mut text = TEXT.try_with(Cell::take).unwrap_or_default();

    let mut line = Line::start(&mut text, format, head.at, *metadata.level());
    let mut message = Message {
        line: &mut line,
        found: false,
    };
    event.record(&mut message);
    if !message.found {
        line.message(head.action.map_or(metadata.name(), |action| action.name));
    }
    if format == LogFormat::Json {
        line.string("ecs.version", ECS_VERSION);
    }
    match head.action {
        Some(action) => event_fields(&mut line, action, head.denied, format),
        None => line.string(
            "log.logger",
            head.logger.as_deref().unwrap_or(metadata.target()),
        ),
    }
    event.record(&mut Fields {
        line: &mut line,
        // Keys of other crates are not ECS, whatever they look like.
        own: metadata.target().starts_with("packetwatch"),
        bridged,
        action_written: head.action.is_some(),
    });
    if let Some(order) = &head.order {
        order.write(&mut line);
    }
    line.finish();

    let done = Arc::from(text.as_str());
    let _ = TEXT.try_with(|kept| kept.set(text));
    done
}

/// The text format leaves out what follows from the action.
fn event_fields(line: &mut Line<'_>, action: &Action, denied: bool, format: LogFormat) {
    line.string("event.action", action.name);
    if format == LogFormat::Json {
        line.string("event.kind", action.kind);
        line.words("event.category", action.categories);
        line.words(
            "event.type",
            if denied {
                DENIED_CONNECTION
            } else {
                action.types
            },
        );
        if let Some(outcome) = action.outcome {
            line.string("event.outcome", outcome);
        }
    }
}

/// What must be known before the first byte is written.
struct Head {
    at: OffsetDateTime,
    action: Option<&'static Action>,
    denied: bool,
    logger: Option<String>,
    /// who gave the order to what happened
    order: Option<Order>,
}

impl Head {
    fn of(event: &Event<'_>) -> Self {
        let mut head = Self {
            at: OffsetDateTime::now_utc(),
            action: None,
            denied: false,
            logger: None,
            order: None,
        };
        let fields = event.metadata().fields();
        if fields.field("event.action").is_some() || event.metadata().target() == BRIDGED {
            event.record(&mut head);
        }
        head
    }
}

impl Visit for Head {
    fn record_i64(&mut self, field: &Field, value: i64) {
        // Microseconds since 1970: when it happened, where that is not when it is written.
        if field.name() == "@timestamp" {
            let nanoseconds = i128::from(value) * 1_000;
            if let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds) {
                self.at = at;
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event.action" => self.action = Action::named(value),
            "packetwatch.verdict" => self.denied = value == "drop",
            "log.target" => self.logger = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "event.action" {
            self.action = Action::named(&format!("{value:?}"));
        }
    }
}
