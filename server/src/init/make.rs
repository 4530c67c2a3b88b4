//! A project whose tests are behind `make test` or `make check`.

use super::tree::Tree;
use super::{Plan, Task};

pub(super) fn plan(tree: &Tree) -> Option<Plan> {
    let file = tree.first(&["GNUmakefile", "makefile", "Makefile"])?;
    let text = tree.text(file)?;
    let target = ["test", "check", "tests"].into_iter().find(|target| has_target(&text, target))?;
    Some(Plan {
        saw: format!("Make: {file} with the target {target}"),
        from: "debian:stable-slim",
        steps: [
            "RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make \\",
            "    && rm -rf /var/lib/apt/lists/*",
            "COPY . .",
        ]
        .map(str::to_owned)
        .to_vec(),
        // Nothing is made in the image; it is to be one of something.
        rebuild_on: vec![file.to_owned()],
        needs: "make, and what the target needs",
        tasks: vec![Task::new(target, format!("make {target}"))],
    })
}

fn has_target(text: &str, target: &str) -> bool {
    text.lines().any(|line| {
        let is_rule = line.split_once(':').is_some_and(|(names, rest)| {
            !rest.starts_with('=') && names.split_whitespace().any(|name| name == target)
        });
        is_rule && !line.starts_with(['\t', '#', '.'])
    })
}
