//! Whether a report is of the form that report.schema.json says. It knows the keywords that the schema uses, and no others.

use serde_json::Value;

pub(crate) fn schema() -> Value {
    serde_json::from_str(include_str!("../../report.schema.json")).expect("the schema is JSON")
}

/// What is wrong with `report`, each with its place.
pub(crate) fn faults(report: &Value) -> Vec<String> {
    let root = schema();
    let mut faults = Vec::new();
    check(&root, &root, report, "", &mut faults);
    faults
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let keywords = schema.as_object().expect("a schema is an object");
    let mut fault = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{at} {what}"));
        }
    };
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "format" => {}
            "type" => fault(is_one_of(rule, value), "has another type"),
            "const" => fault(rule == value, "is another"),
            "enum" => fault(rule.as_array().unwrap().contains(value), "is none of them"),
            "minimum" => {
                fault(value.as_f64().is_none_or(|value| value >= rule.as_f64().unwrap()), "is too small");
            }
            "required" => {
                let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                let Some(object) = value.as_object() else { continue };
                names.for_each(|name| fault(object.contains_key(name), &format!("lacks {name}")));
            }
            "anyOf" => {
                let fits = |rule: &Value| {
                    let mut faults = Vec::new();
                    check(root, rule, value, at, &mut faults);
                    faults.is_empty()
                };
                fault(rule.as_array().unwrap().iter().any(fits), "is of no kind that it may be");
            }
            "$ref" | "properties" | "additionalProperties" | "items" => {}
            other => panic!("{other} is not known here"),
        }
    }
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#')).expect("a reference leads somewhere");
        check(root, target, value, at, faults);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => faults.push(format!("{at} is unknown")),
            (Value::Null, rule @ Value::Object(_)) | (rule, _) if rule.is_object() => {
                check(root, rule, value, &at, faults);
            }
            _ => {}
        }
    }
    if schema["items"].is_object() {
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            check(root, &schema["items"], value, &format!("{at}/{index}"), faults);
        }
    }
}

fn is_one_of(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not known here"),
    };
    types.as_array().map_or_else(|| is(types), |types| types.iter().any(is))
}
