//! The samples of what goes over a pipedef's descriptor; the Python tests read the same files.

use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

use crate::boss::{Answer, Order, Say};

fn same_both_ways<T: Serialize + DeserializeOwned>(name: &str) -> T {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/wire").join(format!("descriptor_{name}.json"));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let value: T = serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_value(&value).unwrap(), json, "{name}");
    value
}

#[test]
fn samples_read_and_write_the_same() {
    assert!(matches!(same_both_ways("discover"), Order::Discover { .. }));
    assert!(matches!(same_both_ways("discover_stay"), Order::Discover { stay: true, .. }));
    assert!(matches!(same_both_ways("task"), Order::Task { .. }));
    assert!(matches!(same_both_ways("fork"), Order::Fork));
    assert!(matches!(same_both_ways("forked"), Order::Forked { .. }));
    assert!(matches!(same_both_ways("reap"), Order::Reap { .. }));
    assert!(matches!(same_both_ways("end"), Order::End));
    assert!(matches!(same_both_ways("discovered"), Say::Discovered { .. }));
    assert!(matches!(same_both_ways("discovered_unforkable"), Say::Discovered { unforkable: Some(_), .. }));
    assert!(matches!(same_both_ways("ready"), Say::Ready { .. }));
    assert!(matches!(same_both_ways("broken"), Say::Broken { .. }));
    let Say::StepAsked { spec, .. } = same_both_ways("step_asked") else { panic!("it is none") };
    let spec: common::StepSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.open_folder(), Some("/tmp/.bettertest"), "both sides mean the same report");
    assert!(matches!(same_both_ways("step_asked_source"), Say::StepAsked { .. }));
    assert!(matches!(same_both_ways("imported"), Say::Imported { .. }));
    assert!(matches!(same_both_ways("recorded"), Answer::Recorded { .. }));
    assert!(matches!(same_both_ways("returned"), Say::Returned));
    assert!(matches!(same_both_ways("raised"), Say::Raised { call: Some(1), .. }));
    assert!(matches!(same_both_ways("step_result"), Answer::StepResult { .. }));
    assert!(matches!(same_both_ways("refused"), Answer::Refused { .. }));
}
