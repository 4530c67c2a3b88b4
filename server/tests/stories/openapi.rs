//! Both servers do what their documents say, asked by schemathesis: thousands of requests made from the documents, the
//! wrong ones too, and every answer compared with them.

use std::path::Path;
use std::process::Command;

use crate::ci::{Ci, Process};

const PIPEDEF: &str = "class One(Stage):\n    def task_a(self): run(WORKER, IMAGE, 'print x')\n";

/// `part` names what it is told beyond the document, in `server/tests/openapi/`.
fn hold(part: &str, server: &Process, token: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tool = root.join(".tools/venv/bin/schemathesis");
    assert!(tool.exists(), "{} is missing\nhint: setup/python.sh", tool.display());
    // What it notes of a run lies where it was started.
    let folder = tempfile::tempdir().expect("there is a temp folder");
    let said = Command::new(tool)
        .current_dir(folder.path())
        .arg("--config-file")
        .arg(root.join(format!("server/tests/openapi/{part}.toml")))
        .args(["--no-color", "run", &format!("{}/openapi.json", server.base)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // The same requests each time: a change of ours is to blame for what they find.
        .args(["--seed", "1", "--max-examples", "10"])
        // Nothing that is asked waits for more than a pipedef to be read.
        .args(["--request-timeout", "60"])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    // Without a document there is nothing to find.
    let all = text.lines().find(|line| line.contains("Selected:")).expect("it says what it asked");
    let (selected, of) =
        all.split_once("Selected:").and_then(|(_, of)| of.trim().split_once('/')).expect("a/b");
    assert_eq!(selected, of, "{text}");
    assert!(text.lines().any(|line| line.trim() == format!("Tested: {of}")), "{text}");
}

#[tokio::test]
async fn the_worker_does_what_its_document_says() {
    let ci = Ci::with(PIPEDEF).await;
    ci.run().await;
    hold("worker", &ci.worker, &ci.token);
}

#[tokio::test]
async fn the_boss_does_what_its_document_says() {
    let ci = Ci::with(PIPEDEF).await;
    ci.run().await;
    hold("boss", &ci.boss, &ci.token);
}
