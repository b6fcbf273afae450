//! What each operation asks of who calls it, as its description says.
//!
//! A handler's `#[utoipa::path(...)]` declares it: `security(("token" = ["read"]))`, or
//! `security(())` for what is open to anybody. The gate reads the same description that
//! `/openapi.json` shows, so that there is nothing beside it to forget. What declares nothing asks
//! for [`Scope::Admin`].

use std::collections::HashMap;

use axum::http::Method;
use serde_json::Value;

use crate::tokens::Scope;

/// The name of the security scheme in the description.
pub(super) const SCHEME: &str = "token";

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// nothing
    Nobody,
    Scope(Scope),
}

/// What every operation needs, by path as the router writes it and method.
#[derive(Debug)]
pub(super) struct Access(HashMap<String, HashMap<Method, Needs>>);

impl Access {
    pub(super) fn of(document: &utoipa::openapi::OpenApi) -> Self {
        // The description keeps the parts of a requirement to itself but when it is written.
        let document = serde_json::to_value(document).unwrap_or_default();
        let paths = document["paths"].as_object().into_iter().flatten();
        let of_path = |item: &Value| {
            let operations = item.as_object().into_iter().flatten();
            let needs = operations.filter_map(|(method, operation)| {
                let method = method.to_uppercase().parse().ok()?;
                Some((
                    method,
                    declared(operation).unwrap_or(Needs::Scope(Scope::Admin)),
                ))
            });
            needs.collect()
        };
        Self(
            paths
                .map(|(path, item)| (path.clone(), of_path(item)))
                .collect(),
        )
    }

    /// What a request needs whose path matched that of a route. `None` if there is no such
    /// operation: it will be answered 404 or 405, and to those alone who hold some token.
    pub(super) fn of_request(&self, path: Option<&str>, method: &Method) -> Option<Needs> {
        // Axum answers HEAD by what GET would.
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        self.0.get(path?)?.get(method).copied()
    }
}

/// What an operation says of itself; `None` for none or more than one scope.
pub(super) fn declared(operation: &Value) -> Option<Needs> {
    let [requirement] = operation.get("security")?.as_array()?.as_slice() else {
        return None;
    };
    let requirement = requirement.as_object()?;
    if requirement.is_empty() {
        return Some(Needs::Nobody);
    }
    let [scope] = requirement.get(SCHEME)?.as_array()?.as_slice() else {
        return None;
    };
    Scope::named(scope.as_str()?).map(Needs::Scope)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_declares_its_scope() {
        let document = serde_json::to_value(crate::api::openapi()).unwrap();
        let mut open = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                match declared(operation) {
                    Some(Needs::Nobody) => open.push(format!("{method} {path}")),
                    Some(Needs::Scope(_)) => {}
                    None => panic!("{method} {path} declares no scope, or one that there is not"),
                }
            }
        }
        assert_eq!(open, ["get /healthz"]);
    }

    #[test]
    fn a_declaration_is_one_scope_or_none() {
        let of = |security: Value| declared(&json!({"security": security}));
        assert_eq!(
            of(json!([{"token": ["read"]}])),
            Some(Needs::Scope(Scope::Read))
        );
        assert_eq!(of(json!([{}])), Some(Needs::Nobody));
        for wrong in [
            json!([]),
            json!([{"token": []}]),
            json!([{"token": ["Read"]}]),
            json!([{"token": ["read", "admin"]}]),
            json!([{"other": ["read"]}]),
            json!([{}, {"token": ["read"]}]),
        ] {
            assert_eq!(of(wrong.clone()), None, "{wrong}");
        }
        assert_eq!(declared(&json!({})), None);
    }
}
