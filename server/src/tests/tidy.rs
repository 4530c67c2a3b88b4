//! Who must not know whom, as far as reading the files can tell. `agents/architecture.md` says why.

use std::path::{Path, PathBuf};

struct Source {
    /// From the root of the repository.
    path: String,
    /// Without comments, and without what only tests see.
    code: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = folder.join(&name);
            if root.join(&path).is_dir() {
                if name != "tests" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(root.join(&path)).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let code = code.collect::<Vec<_>>().join("\n");
                found.push(Source { path: path.to_str().unwrap().to_owned(), code });
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no source");
    found
}

/// No file below `folder` has any of these words, unless its path begins with one of `but`.
fn nowhere(words: &[&str], folder: &str, but: &[&str]) {
    for Source { path, code } in sources(folder) {
        if but.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for word in words {
            if let Some(line) = code.lines().find(|line| line.contains(word)) {
                panic!("{path} must not know {word}: {}", line.trim());
            }
        }
    }
}

#[test]
fn common_knows_nobody() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(root.join("common/Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[dependencies]").unwrap();
    let (dependencies, _) = rest.split_once("[dev-dependencies]").unwrap();
    for line in dependencies.lines().filter(|line| !line.is_empty()) {
        let name = line.split(['.', ' ']).next().unwrap();
        // The document of the servers is made from it; the page is built without it.
        let optional = name == "schemars" && line.contains("optional = true");
        let allowed = ["base64", "serde", "serde_json", "sha2"].contains(&name);
        assert!(allowed || optional, "common depends on {name}");
    }
    nowhere(&["std::fs", "std::net", "std::time::", "std::process", "std::env"], "common/src", &[]);
}

#[test]
fn boss_and_worker_meet_over_http_only() {
    nowhere(&["crate::worker", "super::worker::"], "server/src/boss", &[]);
    nowhere(&["crate::boss"], "server/src/worker", &[]);
    nowhere(&["crate::boss", "crate::worker"], "server/src/source", &[]);
    // It knows both.
    for part in ["boss", "worker"] {
        nowhere(&["crate::doctor"], &format!("server/src/{part}"), &[]);
    }
}

#[test]
fn each_outer_thing_is_known_in_one_place() {
    nowhere(&["bollard"], "server/src", &["server/src/worker/engine/docker"]);
    nowhere(&["rusqlite"], "server/src", &["server/src/boss/store"]);
    let children = [
        "boss/pipedef.rs",
        "source/git.rs",
        "worker/engine/native/helper.rs",
        "worker/engine/native/net/rules.rs",
    ];
    let children = children.map(|path| format!("server/src/{path}"));
    nowhere(&["process::Command", "Command::new"], "server/src", &children.each_ref().map(String::as_str));
    let no_http = &["axum", "hyper", "crate::http"];
    for part in ["boss/runs", "worker/engine"] {
        nowhere(no_http, &format!("server/src/{part}"), &[]);
    }
    for Source { path, code } in sources("server/src/boss") {
        let quiet = ["boss/runs.rs", "boss/store.rs", "boss/pipedef.rs", "boss/output.rs"];
        if quiet.iter().any(|end| path.ends_with(end)) {
            assert!(
                !no_http.iter().any(|word| code.contains(word)),
                "{path} must not know that HTTP is served"
            );
        }
    }
}

#[test]
fn the_environment_configures_nothing_and_nothing_polls() {
    for folder in ["server/src", "common/src", "frontend/src"] {
        nowhere(&["env::var", "set_interval", "time::interval("], folder, &[]);
    }
}

#[test]
fn the_page_knows_the_browser_in_one_place() {
    let browser = &["web_sys", "js_sys", "gloo", "wasm_bindgen"];
    // Events of the browser are what views are told of; their types are all that these name.
    nowhere(
        browser,
        "frontend/src",
        &["frontend/src/effects", "frontend/src/view", "frontend/src/app.rs", "frontend/src/main.rs"],
    );
    nowhere(&["web_sys::window", "js_sys", "gloo"], "frontend/src", &["frontend/src/effects"]);
}
