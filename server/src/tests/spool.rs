//! Spools: what goes in comes out, byte for byte, whatever it is, however much, and after a crash at any point.

use common::{Bytes, Reason, StepEvent, StepSpec, Stream};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

use crate::worker::spool::{Decision, Encoder, Pen, Phase, Spool, Writer, prune, size_bytes};

fn spec() -> StepSpec {
    serde_json::from_str(r#"{"image": "x", "command": "y"}"#).unwrap()
}

fn exited() -> StepEvent {
    StepEvent::Exited {
        exit_code: 0,
        oom: false,
        took_ms: 1,
        signal: None,
        cpu_ms: None,
        peak_memory_bytes: None,
        image_digest: None,
        message: None,
    }
}

fn begin(folder: &Path, cap_bytes: u64) -> Writer {
    let mut writer = open(Spool::create(folder, &spec()).unwrap(), cap_bytes);
    let (container, image_digest, engine) = ("c".to_owned(), Some("d".to_owned()), "e".to_owned());
    writer.say(&StepEvent::Started { container, image_digest, engine, engine_why: None }).unwrap();
    writer
}

fn open(spool: Spool, cap_bytes: u64) -> Writer {
    Writer::open(Arc::new(spool), Arc::default(), cap_bytes).unwrap()
}

fn reopen(folder: &Path, cap_bytes: u64) -> Writer {
    open(Spool::unended(folder).unwrap(), cap_bytes)
}

fn events(folder: &Path) -> Vec<StepEvent> {
    let text = std::fs::read(folder.join("events")).unwrap();
    assert!(text.ends_with(b"\n"));
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The bytes of one stream, or of both in order.
fn bytes(events: &[StepEvent], of: Option<Stream>) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events {
        if let StepEvent::Output { stream, bytes } = event
            && of.is_none_or(|of| of == *stream)
        {
            all.extend_from_slice(bytes.as_slice());
        }
    }
    all
}

fn dropped(events: &[StepEvent]) -> u64 {
    let of = |event: &StepEvent| if let StepEvent::Dropped { bytes } = event { *bytes } else { 0 };
    events.iter().map(of).sum()
}

fn encoded(pieces: &[(Stream, Vec<u8>)]) -> Vec<u8> {
    let (mut encoder, mut lines) = (Encoder::new(), Vec::new());
    for (stream, bytes) in pieces {
        encoder.write(&mut lines, *stream, bytes);
    }
    encoder.settle(&mut lines);
    lines
}

fn decoded(lines: &[u8]) -> Vec<StepEvent> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-zé→𝄞\u{2028}\u{0}\u{1b}\\\\\"\r\n ]{0,40}".prop_map(String::into_bytes);
    prop_oneof![text, prop::collection::vec(any::<u8>(), 0..40)]
}

fn any_stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

proptest! {
    /// What is written by hand is what serde would write, and no byte is lost, wherever the pieces are cut.
    #[test]
    fn encoding_is_exact(pieces in prop::collection::vec((any_stream(), any_bytes()), 0..20)) {
        let lines = encoded(&pieces);
        let events = decoded(&lines);
        let mut by_serde = Vec::new();
        for event in &events {
            serde_json::to_writer(&mut by_serde, event).unwrap();
            by_serde.push(b'\n');
        }
        prop_assert_eq!(String::from_utf8(lines).unwrap(), String::from_utf8(by_serde).unwrap());
        let printed: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        prop_assert_eq!(bytes(&events, None), printed);
    }

    /// Text stays text, however it is cut, as long as it comes on one stream.
    #[test]
    fn text_stays_text(text in "[aé→𝄞\n]{1,200}", at in 1usize..7) {
        let pieces: Vec<_> = text.as_bytes().chunks(at).map(|cut| (Stream::Stdout, cut.to_vec())).collect();
        for event in decoded(&encoded(&pieces)) {
            let is_text = matches!(event, StepEvent::Output { bytes: Bytes::Text(_), .. });
            prop_assert!(is_text, "{:?}", event);
        }
    }

    /// Beginning + what was dropped + end = everything, each as long as it may be.
    #[test]
    fn caps_add_up(
        cap in 0u64..9000,
        pieces in prop::collection::vec((any_stream(), 1usize..3000), 0..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("s");
        let mut writer = begin(&folder, cap);
        let mut printed = Vec::new();
        for (stream, len) in &pieces {
            let piece: Vec<u8> = (0..*len).map(|at| b'a' + ((printed.len() + at) % 23) as u8).collect();
            writer.output(*stream, &piece);
            printed.extend_from_slice(&piece);
        }
        writer.end(None, &exited(), || {}).unwrap().publish();
        let events = events(&folder);
        let stored = bytes(&events, None);
        prop_assert_eq!(stored.len() as u64 + dropped(&events), printed.len() as u64);
        let cap = cap as usize;
        prop_assert_eq!(stored.len(), printed.len().min(2 * cap));
        let head = cap.min(printed.len());
        prop_assert_eq!(&stored[..head], &printed[..head]);
        prop_assert!(printed.ends_with(&stored[head..]));
        let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        prop_assert_eq!(left, ["events", "spec.json"]);
    }

    /// A worker that dies anywhere leaves a spool with which the next one goes on.
    #[test]
    fn reopening_goes_on(cap in 0u64..6000, before in 0usize..9000, after in 0usize..9000, torn in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("s");
        let mut writer = begin(&folder, cap);
        writer.output(Stream::Stdout, &vec![b'a'; before]);
        writer.flush_output();
        drop(writer);
        if torn {
            let mut file = std::fs::File::options().append(true).open(folder.join("events")).unwrap();
            std::io::Write::write_all(&mut file, b"{\"event\":\"outp").unwrap();
        }
        let mut writer = reopen(&folder, cap);
        prop_assert_eq!(Spool::unended(&folder).unwrap().phase(), Phase::Running);
        writer.say(&StepEvent::Gap { bytes: None }).unwrap();
        writer.output(Stream::Stdout, &vec![b'b'; after]);
        writer.end(None, &exited(), || {}).unwrap().publish();
        let events = events(&folder);
        let stored = bytes(&events, None);
        prop_assert_eq!(stored.len() as u64 + dropped(&events), (before + after) as u64);
        prop_assert_eq!(stored.len() as u64, (before + after).min(2 * cap as usize) as u64);
        let gaps = events.iter().filter(|event| matches!(event, StepEvent::Gap { .. })).count();
        prop_assert_eq!(gaps, 1);
    }
}

#[test]
fn long_lines_are_cut() {
    // Six bytes of JSON for each: no line is too long for its readers all the same.
    let lines = encoded(&[(Stream::Stdout, vec![1; 300_000]), (Stream::Stdout, vec![0xff; 300_000])]);
    let longest = lines.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap();
    assert!(longest <= 100_000, "{longest}");
    assert_eq!(bytes(&decoded(&lines), None).len(), 600_000);
}

#[test]
fn a_crash_in_the_replay_of_a_tail_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("s");
    let mut writer = begin(&folder, 10);
    writer.output(Stream::Stdout, b"0123456789-in-between-ABCDEFGHIJ");
    writer.flush_output();
    drop(writer);
    let len = std::fs::metadata(folder.join("events")).unwrap().len();
    // As far as a replay can come without an end.
    let mut file = std::fs::File::options().append(true).open(folder.join("events")).unwrap();
    let replayed = b"{\"event\":\"dropped\",\"bytes\":12}\n{\"event\":\"output\",\"stream\":\"stdout\",\"text\":\"ABC\"}\n";
    std::io::Write::write_all(&mut file, replayed).unwrap();
    std::fs::write(folder.join("replay"), len.to_string()).unwrap();
    reopen(&folder, 10).end(None, &exited(), || {}).unwrap().publish();
    let events = events(&folder);
    assert_eq!(bytes(&events, None), b"0123456789ABCDEFGHIJ");
    assert_eq!(dropped(&events), 12);
    assert!(!folder.join("replay").exists());
}

#[test]
fn an_ended_spool_is_known_by_its_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("s");
    let writer = begin(&folder, 10);
    assert!(Spool::ended(&folder).unwrap().is_none());
    writer.end(None, &exited(), || {}).unwrap().publish();
    let spool = Spool::ended(&folder).unwrap().unwrap();
    assert!(spool.has_ended());
    assert_eq!(spool.spec().unwrap(), spec());
}

#[tokio::test]
async fn decisions_survive_and_readers_are_told_last() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("s");
    drop(begin(&folder, 10));
    let pen = Pen::new(Arc::new(Spool::unended(&folder).unwrap()), Arc::default(), 10);
    pen.decide(Decision::Cancelled(Reason::CancelAsked)).await.unwrap();
    pen.put_down().await;
    let spool = Arc::new(Spool::unended(&folder).unwrap());
    assert_eq!(spool.decision(), Some(Decision::Cancelled(Reason::CancelAsked)));
    let writer = Writer::open(spool.clone(), Arc::default(), 10).unwrap();
    let unpublished = writer.end(None, &exited(), || {}).unwrap();
    assert!(Spool::ended(&folder).unwrap().is_some(), "it is recorded");
    assert!(!spool.has_ended(), "but nobody was told");
    unpublished.publish();
    assert!(spool.has_ended());
    // Positions that no event ends at are refused; the others are not.
    assert!(spool.reader(3).unwrap().is_none());
    assert!(spool.reader(1_000_000).unwrap().is_none());
    let mut reader = spool.reader(19).unwrap().unwrap();
    let lines = reader.next().await.unwrap().unwrap();
    assert_eq!(lines.iter().count(), 2);
    assert!(reader.next().await.unwrap().is_none());
}

fn gaps(events: &[StepEvent]) -> Vec<Option<u64>> {
    let gap = |event: &StepEvent| if let StepEvent::Gap { bytes } = event { Some(*bytes) } else { None };
    events.iter().filter_map(gap).collect()
}

async fn read_from(spool: &Spool, after: u64) -> Vec<(u64, StepEvent)> {
    let mut reader = spool.reader(after).unwrap().unwrap();
    let mut all = Vec::new();
    while let Some(lines) = reader.next().await.unwrap() {
        all.extend(lines.iter().map(|(at, line)| (at, serde_json::from_slice(line).unwrap())));
    }
    all
}

#[tokio::test]
async fn pruned_output_is_a_gap_and_all_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("s");
    let mut writer = begin(&folder, 100_000);
    for _ in 0..30 {
        writer.output(Stream::Stdout, &[b'x'; 10_000]);
    }
    writer.end(None, &exited(), || {}).unwrap().publish();
    let before = read_from(&Spool::ended(&folder).unwrap().unwrap(), 0).await;
    let size = size_bytes(&folder).unwrap();
    let mut slow = Spool::ended(&folder).unwrap().unwrap().reader(0).unwrap().unwrap();
    slow.next().await.unwrap().unwrap();

    let freed = prune(&folder).unwrap();
    assert!(freed > 190_000 && size_bytes(&folder).unwrap() <= size - freed + 8192, "{freed}");
    assert_eq!(prune(&folder).unwrap(), 0, "there is no more to take");
    let spool = Spool::ended(&folder).unwrap().unwrap();
    let after = read_from(&spool, 0).await;
    let events: Vec<StepEvent> = after.iter().map(|(_, event)| event.clone()).collect();
    // What was kept, and what had been left out before.
    assert_eq!(gaps(&events), [Some(300_000)]);
    assert_eq!(after.len(), 4);
    assert_eq!((after.first(), after.last()), (before.first(), before.last()));
    // Positions of before still mean what they meant; of what was partly read nobody knows how much is missing.
    let (middle, _) = before[before.len() / 2];
    let rest = read_from(&spool, middle).await;
    assert!(matches!(rest[0].1, StepEvent::Gap { bytes: None }), "{rest:?}");
    assert_eq!(rest[1..], after[3..]);
    assert_eq!(read_from(&spool, after[2].0).await, after[3..]);
    // A reader that was in the middle of it finds its end too.
    let mut last = None;
    while let Some(lines) = slow.next().await.unwrap() {
        last = lines.events().last();
    }
    assert_eq!(last.unwrap().unwrap(), exited());
}

#[tokio::test]
async fn what_memory_has_let_go_is_read_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("s");
    let mut writer = begin(&folder, 1_000_000);
    writer.output(Stream::Stdout, &[b'x'; 500_000]);
    writer.end(None, &exited(), || {}).unwrap().publish();
    let spool = Spool::ended(&folder).unwrap().unwrap();
    let from_memory = read_from(&spool, 0).await;
    let file = std::fs::File::open(folder.join("events")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(read_from(&spool, 0).await, from_memory);
}

#[test]
fn a_full_disk_loses_output_but_no_end_and_no_count() {
    if !nix::unistd::Uid::effective().is_root() {
        // Only root can make a disk that is small enough.
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let mount =
        |words: &[&str]| std::process::Command::new(words[0]).args(&words[1..]).status().unwrap().success();
    let path = disk.path().to_str().unwrap();
    for (at, cap) in [(300_000, 10_000_000), (3_000_000, 100_000), (3_000_000, 5_000_000)] {
        assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path]));
        std::fs::create_dir(disk.path().join("steps")).unwrap();
        std::fs::write(disk.path().join("reserve"), vec![0; 65536]).unwrap();
        let folder = disk.path().join("steps/s");
        let mut writer = begin(&folder, cap);
        for piece in 0..at / 10_000 {
            writer.output(Stream::Stdout, &[b'0' + (piece % 10) as u8; 10_000]);
            writer.flush_output();
        }
        std::fs::write(disk.path().join("filler"), vec![0; 4_000_000]).unwrap_err();
        for _ in 0..20 {
            writer.output(Stream::Stderr, &[b'e'; 10_000]);
            writer.flush_output();
        }
        let ended = writer.end(None, &exited(), || {});
        let events = events(&folder);
        let ended = ended.map(|unpublished| unpublished.publish());
        let lost: u64 = gaps(&events).into_iter().map(Option::unwrap).sum();
        assert!(mount(&["umount", path]));
        ended.unwrap();
        assert!(lost > 0);
        let stored = bytes(&events, None).len() as u64;
        assert_eq!(stored + dropped(&events) + lost, at + 200_000, "at {at} of {cap}");
        assert_eq!(events.last(), Some(&exited()));
    }
}
