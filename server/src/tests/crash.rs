//! What a worker finds that another has left, with workers in one process: what needs real ones that are killed is
//! in the stories.

use common::{Health, StepEvent, StepId};
use reqwest::StatusCode;
use serde_json::json;
use std::time::Duration;

use super::races::Dice;
use super::rig::{IMAGE, Rig};
use crate::worker::forgotten::Forgotten;
use crate::worker::{EngineChoice, Fake};

/// Workers that are told to stop while they still begin, one after another: none sweeps away what is handed over.
#[tokio::test(flavor = "multi_thread")]
async fn handed_over_again_and_again_it_is_the_same_container() {
    let mut dice = Dice::fresh("handed over");
    let mut rig = Rig::docker().await;
    let ids = ["h-1", "h-2", "h-3"];
    for id in ids {
        rig.start(id, "echo on; sleep 4; exit 9").await;
        rig.until(id, |event| matches!(event, StepEvent::Output { .. })).await;
    }
    for _ in 0..25 {
        let (data, engine) = rig.hand_over().await;
        rig = Rig::on(data, engine, |_| {}).await;
        tokio::time::sleep(Duration::from_millis(dice.below(15))).await;
    }
    for id in ids {
        assert_eq!(rig.events(id, 0).await.end().exit_code, Some(9));
    }
    rig.finish().await;
}

/// The next worker knows of it too, though the step is long over: its slot stays out of use, and /health says why.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_killed_is_no_secret_of_one_worker() {
    let rig = Rig::with(EngineChoice::Fake(Fake::default()), |setup| setup.slots = 2).await;
    let told = rig.run(json!({"image": IMAGE, "command": "hang", "timeout_s": 1, "id": "h-1"})).await;
    assert_eq!(told.verdict(), "kill_failed");
    let (data, engine) = rig.hand_over().await;
    let next = Rig::on(data, engine, |setup| setup.slots = 2).await;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let asked = next.bare().get(next.url("/health")).header("accept", "application/json").send();
        let answer = asked.await.unwrap();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            let health: Health = answer.json().await.unwrap();
            assert!(health.why.unwrap().contains("h-1"));
            break;
        }
        assert!(std::time::Instant::now() < until, "/health is green");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One slot is left, and it works.
    assert_eq!(next.sh("true").await.verdict(), "passed");
}

/// A disk that was full took a part of an entry: the ones that follow are read all the same.
#[test]
fn half_an_entry_spoils_none_that_follow() {
    let folder = tempfile::tempdir().unwrap();
    let id = |number: u32| StepId::try_from(format!("run-{number}")).unwrap();
    let forgotten = Forgotten::open(folder.path()).unwrap();
    for number in 0..2000 {
        forgotten.add(&id(number)).unwrap();
        if number % 3 == 0 {
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = std::fs::File::options().append(true).open(file.unwrap().path()).unwrap();
                let len = file.metadata().unwrap().len();
                if len.is_multiple_of(20) && number > 1500 {
                    std::io::Write::write_all(&mut &file, &[7; 7]).unwrap();
                }
            }
        }
    }
    let again = Forgotten::open(folder.path()).unwrap();
    assert!((0..2000).all(|number| again.has(&id(number)).unwrap()));
    assert!(!(2000..3000).any(|number| again.has(&id(number)).unwrap()));
}
