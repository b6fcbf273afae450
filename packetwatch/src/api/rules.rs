//! `/v1/rules`.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App, blocking,
    extract::{Body, NoParams, Params, place_of},
    problem::{Fault, Problem},
    refusals::{BadBody, BadParameter, Failed, Gated, Slow},
};
use crate::{
    daemon::RulesError,
    rules::{Rule, RuleErrors, RuleSet, RuleText},
};

/// The rules in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rules {
    #[schema(value_type = Vec<RuleText>)]
    pub rules: Vec<RuleText>,
    /// `built-in`, `api`, the path of the file, or the variable or flag that they were read from.
    pub rules_from: String,
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
}

impl NewRules {
    /// Reads and checks the set.
    ///
    /// # Errors
    /// 422 with every fault, each with the rule's index and the field.
    fn checked(self) -> Result<Vec<Rule>, Problem> {
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
    let text: RuleText = serde_path_to_error::deserialize(value)
        .map_err(|error| fault(place_of(&error), error.into_inner().to_string()))?;
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
    Rules {
        rules: rules.iter().cloned().map(RuleText::from).collect(),
        rules_from: from.to_string(),
    }
}

fn refusal(error: RulesError, what: &'static str) -> Problem {
    match error {
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
#[utoipa::path(put, path = "/v1/rules", tag = "rules", security(("token" = ["admin"])), request_body = NewRules, responses(
    (status = 200, description = "the rules in force", body = Rules),
    (status = 409, description = "bans of too many different prefix lengths would stand",
        body = Problem, content_type = "application/problem+json"),
    BadBody, Gated, Failed, Slow,
))]
pub(super) async fn put_rules(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<NewRules>,
) -> Result<Json<Rules>, Problem> {
    let rules = body.checked()?;
    blocking(move || {
        let put = app.rules.put(rules);
        put.map_err(|error| refusal(error, "set the rules"))?;
        Ok(Json(current(&app)))
    })
    .await
}

/// Return to the configuration's rules.
#[utoipa::path(delete, path = "/v1/rules", tag = "rules", security(("token" = ["admin"])), responses(
    (status = 200, description = "the rules now in force", body = Rules),
    (status = 409, description = "bans of too many different prefix lengths would stand",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn reset_rules(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Rules>, Problem> {
    blocking(move || {
        let reset = app.rules.reset();
        reset.map_err(|error| refusal(error, "reset the rules"))?;
        Ok(Json(current(&app)))
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
