//! `/v1/rules`.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, Asker, PendingChange, WouldDrop, blocking,
    extract::{Body, NO_OBJECT, NoParams, Params, told},
    pending::{ConfirmParams, in_the_way},
    problem::{Fault, Problem},
    refusals::{BadBody, BadParameter, Failed, Gated, NotWritten, Slow, TooManyLengths},
    would_drop::beyond,
};
use crate::{
    daemon::RulesError,
    pending::Object,
    rules::{Rule, RuleErrors, RuleSet, RuleText},
};

/// The rules in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rules {
    #[schema(value_type = Vec<RuleText>)]
    pub rules: Vec<RuleText>,
    /// `built-in`, `api`, the path of the file, or the variable or flag that they were read from.
    pub rules_from: String,
    /// The change of the rules that waits to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
    /// Callers that exceed a rule of this change already; at most 100, peers first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<WouldDrop>,
}

/// The rules that shall be in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRules {
    /// At most 8; an empty list means none.
    #[schema(value_type = Vec<RuleText>, max_items = 8)]
    pub rules: Vec<serde_json::Value>,
    /// Taken and ignored, so that what `GET` answers can be sent back.
    #[serde(default, skip_serializing)]
    pub rules_from: Option<String>,
    /// The same.
    #[serde(default, skip_serializing)]
    pub pending: Option<serde_json::Value>,
    /// The same.
    #[serde(default, skip_serializing)]
    pub would_drop: Option<serde_json::Value>,
}

impl NewRules {
    /// Reads and checks the set.
    ///
    /// # Errors
    /// 422 with every fault, each with the rule's index and the field.
    pub(super) fn checked(self) -> Result<Vec<Rule>, Problem> {
        let mut faults = Vec::new();
        let mut rules = Vec::new();
        for (index, value) in self.rules.into_iter().enumerate() {
            match read(value) {
                Ok(rule) => rules.push(rule),
                Err(fault) => faults.push(Fault {
                    index: Some(index),
                    ..fault
                }),
            }
        }
        if faults.is_empty() {
            let checked = RuleSet::validate(rules.clone());
            faults = checked.err().map(faults_of).unwrap_or_default();
        }
        if faults.is_empty() {
            return Ok(rules);
        }
        Err(refused(faults))
    }
}

fn refused(faults: Vec<Fault>) -> Problem {
    let total = faults.len();
    let detail = "the rules are wrong and nothing was changed: correct what errors lists";
    // A fault of the set is on its first rule too many, and is not that rule's.
    let first = faults
        .first()
        .filter(|fault| fault.field.as_deref() != Some("rules"));
    let field = first.and_then(|fault| fault.path("rules"));
    Problem::refused(field.unwrap_or_else(|| "rules".to_owned()), detail).listing(faults, total)
}

fn read(value: serde_json::Value) -> Result<Rule, Fault> {
    let fault = |field: Option<String>, detail| Fault {
        line: None,
        index: None,
        field,
        detail,
    };
    if value.is_array() {
        return Err(fault(None, NO_OBJECT.to_owned()));
    }
    let text: RuleText = serde_path_to_error::deserialize(value)
        .map_err(|error| told(&error))
        .map_err(|(field, detail)| fault(field, detail))?;
    Rule::try_from(text).map_err(|detail| fault(None, detail))
}

fn faults_of(errors: RuleErrors) -> Vec<Fault> {
    let fault = |error: crate::rules::RuleError| Fault {
        line: None,
        index: Some(error.index),
        field: Some(error.field.to_owned()),
        detail: error.to_string(),
    };
    errors.0.into_iter().map(fault).collect()
}

fn current(app: &App) -> Rules {
    let (rules, from) = app.rules.current();
    let pending = app.rules.pending();
    let pending = pending.filter(|pending| pending.object() == Object::Rules);
    Rules {
        rules: rules.iter().cloned().map(RuleText::from).collect(),
        rules_from: from.to_string(),
        pending: pending.map(PendingChange::from),
        would_drop: Vec::new(),
    }
}

pub(super) fn refusal(error: RulesError, what: &'static str) -> Problem {
    match error {
        RulesError::InTheWay(error) => in_the_way(&error),
        RulesError::Io { .. } | RulesError::Unfinished(_) => {
            let detail = format!("{error}; see to the state directory's disk and try again");
            tracing::error!(error.message = %detail, "API: cannot {what}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        RulesError::Unwritten { .. } => {
            let detail = format!("{error}. See to the state directory's disk");
            tracing::error!(error.message = %detail, "API: cannot {what}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
        RulesError::Invalid(errors) => refused(faults_of(errors)),
        RulesError::TooManyLengths { .. } => {
            Problem::new(StatusCode::CONFLICT, error.to_string()).about("rules")
        }
        error => Problem::internal(what, &error),
    }
}

/// The rules in force, and where they came from.
#[utoipa::path(get, path = "/v1/rules", tag = "rules", security(("token" = ["read"])),
    responses((status = 200, description = "the rules in force", body = Rules), BadParameter, Gated, Failed, Slow))]
pub(super) async fn get_rules(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Rules>, Problem> {
    blocking(move || Ok(Json(current(&app)))).await
}

/// Put these rules in the place of the configuration's, until they are reset.
#[utoipa::path(put, path = "/v1/rules", tag = "rules", security(("token" = ["admin"])),
    params(ConfirmParams), request_body = NewRules, responses(
    (status = 200, description = "the rules in force", body = Rules),
    BadBody, TooManyLengths, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn put_rules(
    State(app): State<App>,
    asker: Asker,
    Params(ConfirmParams { confirm }): Params<ConfirmParams>,
    Body(body): Body<NewRules>,
) -> Result<Json<Rules>, Problem> {
    let rules = body.checked()?;
    blocking(move || {
        let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
        // Before the change, which voids what is counted.
        let would_drop = match RuleSet::validate(rules.clone()) {
            Ok(rules) => beyond(&app, &rules, asker)?,
            Err(_) => Vec::new(),
        };
        let put = app.rules.put(rules, confirm);
        put.map_err(|error| refusal(error, "set the rules"))?;
        Ok(Json(Rules {
            would_drop,
            ..current(&app)
        }))
    })
    .await
}

/// Return to the configuration's rules.
#[utoipa::path(delete, path = "/v1/rules", tag = "rules", security(("token" = ["admin"])),
    params(ConfirmParams), responses(
    (status = 200, description = "the rules now in force", body = Rules),
    BadParameter, TooManyLengths, NotWritten, Gated, Failed, Slow,
))]
pub(super) async fn reset_rules(
    State(app): State<App>,
    asker: Asker,
    Params(ConfirmParams { confirm }): Params<ConfirmParams>,
) -> Result<Json<Rules>, Problem> {
    blocking(move || {
        let _turn = app.trials.begin(confirm).map_err(|e| in_the_way(&e))?;
        let configured = app.rules.would_stand(None, None);
        let configured = configured.map_err(|error| refusal(error, "reset the rules"))?;
        let would_drop = beyond(&app, &configured.rules, asker)?;
        let reset = app.rules.reset(confirm);
        reset.map_err(|error| refusal(error, "reset the rules"))?;
        Ok(Json(Rules {
            would_drop,
            ..current(&app)
        }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(body: serde_json::Value) -> Result<Vec<Rule>, Problem> {
        serde_json::from_value::<NewRules>(body).unwrap().checked()
    }

    #[test]
    fn what_get_answers_can_be_put() {
        let rules = RuleSet::default();
        let answer = Rules {
            rules: rules.iter().cloned().map(RuleText::from).collect(),
            rules_from: "default".to_owned(),
            pending: None,
            would_drop: Vec::new(),
        };
        let read = checked(serde_json::to_value(answer).unwrap()).unwrap();
        assert_eq!(RuleSet::validate(read), Ok(rules));
        assert_eq!(checked(json!({"rules": []})), Ok(vec![]));
    }

    #[test]
    fn every_fault_names_its_rule_and_field() {
        let problem = checked(json!({"rules": [
            {"name": "a", "connections": 5},
            {"name": "b", "connections": 5, "colour": "red"},
            {"name": "c"},
        ]}));
        let errors = problem.unwrap_err().errors;
        let places: Vec<_> = errors
            .iter()
            .map(|e| (e.index, e.field.as_deref()))
            .collect();
        assert_eq!(places, [(Some(1), Some("colour")), (Some(2), None)]);
        let problem = checked(json!({"rules": [{"name": "a", "packets": 5, "within": 5}]}));
        assert_eq!(
            problem.unwrap_err().field.as_deref(),
            Some("rules[0].within")
        );
        let problem = checked(json!({"rules": [{"name": "Bad Name", "distinct_ports": 65}]}));
        let errors = problem.unwrap_err().errors;
        let fields: Vec<_> = errors.iter().filter_map(|e| e.field.as_deref()).collect();
        assert_eq!(fields, ["name", "distinct_ports"]);
    }
}
