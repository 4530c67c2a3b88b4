//! What tasks print: while they print it, in parts, and to the byte.

use common::{Mark, OutputMark, RunFact, StepEvent};
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode, header};

use crate::ci::Ci;

#[tokio::test]
async fn output_is_there_while_it_is_written() {
    let ci = Ci::with(
        r#"
class One(Stage):
    def task_slow(self):
        run(WORKER, IMAGE, "print first; sleep 1; print second")
"#,
    )
    .await;
    let run = ci.start().await;
    ci.follow(run, |_, fact| matches!(fact, RunFact::Step { said: StepEvent::Started { .. }, .. })).await;
    let path = format!("/api/runs/{run}/tasks/One.slow/output?follow=1");
    let mut bytes = ci.ask(Method::GET, &path).send().await.unwrap().bytes_stream();
    let mut text = String::new();
    let mut pieces = 0;
    while let Some(piece) = bytes.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        pieces += 1;
        if pieces == 1 {
            assert_eq!(text, "first\n");
        }
    }
    assert_eq!(text, "first\nsecond\n");
    let resumed = ci.ask(Method::GET, &path).header(header::RANGE, "bytes=6-").send().await.unwrap();
    assert_eq!(resumed.text().await.unwrap(), "second\n");
}

#[tokio::test]
async fn parts_and_marks_of_an_ended_output() {
    let ci = Ci::with(
        r#"
class One(Stage):
    def task_two(self):
        run(WORKER, IMAGE, "print abc; eprint def")
        print("between")
        run(WORKER, IMAGE, ["print", "ghi"])
"#,
    )
    .await;
    let run = ci.run().await.number;
    let path = format!("/api/runs/{run}/tasks/One.two/output");
    let part = async |range: &str| {
        let answer = ci.ask(Method::GET, &path).header(header::RANGE, range).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(part("bytes=1-5").await, (StatusCode::PARTIAL_CONTENT, "bc\nde".to_owned()));
    assert_eq!(part("bytes=-4").await, (StatusCode::PARTIAL_CONTENT, "ghi\n".to_owned()));
    assert_eq!(part("bytes=900-").await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    let index = ci.ask(Method::GET, &format!("{path}/index")).send().await.unwrap().text().await.unwrap();
    let marks: Vec<(u64, Mark)> = index
        .lines()
        .map(|line| serde_json::from_str::<OutputMark>(line).unwrap())
        .map(|mark| (mark.offset, mark.mark))
        .collect();
    let kinds: Vec<String> = marks
        .iter()
        .map(|(offset, mark)| match mark {
            Mark::Output { stream, .. } => format!("{offset} {stream:?}"),
            other => format!("{offset} {other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["0 Stdout", "4 Stderr", "8 Pipedef", "16 Stdout"]);
    assert_eq!(
        ci.ask(Method::GET, &format!("{path}?attempt=2")).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
}
