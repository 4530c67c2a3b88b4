//! Records within bounds: what is old is forgotten but never run again, what is too much becomes a gap.

use common::{Problem, Reason, StepEvent, StepId};
use reqwest::StatusCode;
use serde_json::json;
use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use super::rig::{IMAGE, Rig};
use crate::worker::forgotten::Forgotten;
use crate::worker::{EngineChoice, Fake};

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_is_forgotten_and_its_id_never_used_again() {
    let rig = Rig::fake().await;
    for id in ["r-old", "r-new"] {
        rig.run(json!({"image": IMAGE, "command": "true", "id": id})).await;
    }
    let anonymous = rig.sh("true").await;
    let fake = rig.fake_engine().clone();
    let (data, engine) = rig.hand_over().await;
    let events = data.path().join("worker/steps/r-old/events");
    let eight_days_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    let events = File::options().append(true).open(events).unwrap();
    events.set_times(FileTimes::new().set_modified(eight_days_ago)).unwrap();

    let rig = Rig::on(data, engine, |_| {}).await;
    let asked = || rig.get("/steps/r-old/events").send();
    let looked = SystemTime::now();
    while asked().await.unwrap().status() != StatusCode::GONE {
        assert!(looked.elapsed().unwrap() < Duration::from_secs(20), "it is not forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = rig.post(&json!({"image": IMAGE, "command": "true", "id": "r-old"})).await;
    assert_eq!(sent.status(), StatusCode::GONE);
    assert_eq!(fake.started(), 3);
    assert_eq!(rig.events("r-new", 0).await.verdict(), "passed");
    assert_eq!(anonymous.verdict(), "passed");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_output_makes_room_from_the_oldest() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.spool_bytes = 450_000).await;
    let flood = |id: &str| json!({"image": IMAGE, "command": "flood 200000; exit 3", "id": id});
    for id in ["r-1", "r-2", "r-3"] {
        assert_eq!(rig.run(flood(id)).await.end().exit_code, Some(3));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = rig.run(json!({"image": IMAGE, "command": "true", "id": "r-4"})).await;
    assert_eq!(last.verdict(), "passed");
    let (first, third) = (rig.events("r-1", 0).await, rig.events("r-3", 0).await);
    assert_eq!(first.kinds(), ["queued", "started", "gap", "exited"]);
    assert!(matches!(first.0[2].1, StepEvent::Gap { bytes: Some(200_000) }), "{first:?}");
    assert_eq!((third.stdout().len(), third.gaps()), (200_000, 0));
    assert_eq!(rig.get("/steps/r-1/output").send().await.unwrap().bytes().await.unwrap(), b""[..]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_steps_that_fill_it_keep_new_ones_out() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.spool_bytes = 300_000).await;
    rig.start("r-1", "flood 500000; echo on >&2; sleep 60").await;
    rig.until("r-1", |event| matches!(event, StepEvent::Output { stream: common::Stream::Stderr, .. })).await;
    let sent = rig.post(&json!({"image": IMAGE, "command": "true", "id": "r-2"})).await;
    assert_eq!(sent.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: Problem = sent.json().await.unwrap();
    assert_eq!(problem.reason, Some(Reason::SpoolFull));
    let health = rig.get("/health").send().await.unwrap();
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(health.text().await.unwrap().contains("spool_full"));
    rig.cancel("r-1").await;
    assert_eq!(rig.events("r-1", 0).await.stdout().len(), 500_000);
    assert_eq!(rig.run(json!({"image": IMAGE, "command": "true", "id": "r-2"})).await.verdict(), "passed");
    rig.finish().await;
}

#[test]
fn forgotten_ids_stay_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let id = |number: u32| StepId::try_from(format!("run-{number}")).unwrap();
    let forgotten = Forgotten::open(folder.path()).unwrap();
    for number in 0..1000 {
        forgotten.add(&id(number)).unwrap();
    }
    let again = Forgotten::open(folder.path()).unwrap();
    assert!((0..1000).all(|number| again.has(&id(number)).unwrap()));
    assert!(!(1000..2000).any(|number| again.has(&id(number)).unwrap()));
    // A day long ago, written into one of the files: what is older than a year may be used again.
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut entries = std::fs::read(&file).unwrap();
    let count = entries.len() / 20;
    entries[16..20].fill(0);
    std::fs::write(&file, entries).unwrap();
    Forgotten::open(folder.path()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap().len(), (count - 1) * 20);
}
