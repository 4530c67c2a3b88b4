//! However much there is to tell of a failure, a packet has its cap, and counts what it leaves out.

use crate::{ChangedFiles, FailedTest, Failure, PACKET_BYTES, Packet, Reason, RunState, TaskId, Verdict};

fn failure(n: usize) -> Failure {
    let long = |what: &str| format!("{what}/{}", "é".repeat(100));
    let test = FailedTest {
        name: long("test"),
        message: vec![long("message"); 8],
        flaky: false,
        frames: vec![long("src"); 5],
    };
    Failure {
        task: TaskId::try_from(format!("One.t{n}")).unwrap(),
        attempt: 1,
        verdict: Verdict::Not(Reason::CommandFailed),
        error: Some(long("error")),
        hint: None,
        at: None,
        notes: vec![long("note"); 3],
        tests: None,
        failed_tests: vec![test; 20],
        first_new_line: None,
        changes: Some(ChangedFiles {
            changed: vec![long("changed"); 10],
            added: vec![long("added"); 10],
            more: 7,
            ..ChangedFiles::default()
        }),
        last_lines: vec![long("line"); 40],
        again: "bettertest run".to_owned(),
    }
}

#[test]
fn places_and_changes_keep_to_the_cap() {
    for count in 1..=10 {
        let mut packet = Packet::empty(&RunState::default());
        packet.more_failures = count;
        packet.fill((0..count).map(failure).collect(), PACKET_BYTES);
        assert!(packet.size_bytes() <= PACKET_BYTES, "{count}: {} bytes", packet.size_bytes());
        assert_eq!(packet.failures.len() + packet.more_failures, count);
        assert!(packet.failures.len() >= count.min(4), "{count}: {}", packet.failures.len());
        for changes in packet.failures.iter().filter_map(|failure| failure.changes.as_ref()) {
            assert_eq!(changes.named() + changes.more, 27, "what is not named is counted");
        }
        if count == 1 {
            assert!(
                packet.failures[0].failed_tests[0].frames.len() >= 2 && packet.failures[0].changes.is_some()
            );
        }
    }
}
