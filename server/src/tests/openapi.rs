//! What `agents/openapi/` holds is what the servers say of themselves.

use serde_json::Value;
use std::path::Path;

fn hold(name: &str, document: &[u8]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document: Value = serde_json::from_slice(document).unwrap();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if std::fs::read_to_string(root.join("agents/openapi").join(name)).unwrap_or_default() != text {
        std::fs::create_dir_all(root.join("target")).unwrap();
        std::fs::write(root.join("target").join(name), text).unwrap();
        panic!(
            "the API is not what agents/openapi/{name} says\n\
             hint: where that is meant, cp target/{name} agents/openapi/{name}"
        );
    }
}

#[test]
fn the_worker_is_as_documented() {
    hold("worker.json", &crate::worker::DOCUMENT);
}

#[test]
fn the_boss_is_as_documented() {
    hold("boss.json", &crate::boss::DOCUMENT);
}
