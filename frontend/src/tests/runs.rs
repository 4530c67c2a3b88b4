//! Stories of the first page: what is fetched, starting a run, being refused, logging in.

use common::{Pipeline, RunNumber, RunSummary};

use super::story::{BEGAN_MS, Story, problem};
use crate::model::{Live, Remote, Session};
use crate::route::Route;
use crate::update::{Effect, Feed, Flags, Msg, init, ticking, update};

fn summary(run: u64, state: &str) -> RunSummary {
    RunSummary {
        run: RunNumber(run),
        state: state.to_owned(),
        verdict: (state == "ended").then_some(common::Verdict::Passed),
        headline: if state == "ended" { "passed" } else { "running" }.to_owned(),
        partial: false,
        tasks: 3,
        tasks_passed: 3,
        started_at_ms: BEGAN_MS - 4 * 60_000,
        started_by: None,
        ended_at_ms: (state == "ended").then_some(BEGAN_MS - 3 * 60_000),
    }
}

fn with_runs(runs: Vec<RunSummary>, next: Option<u64>) -> Story {
    let mut story = Story::at("/");
    story.happens(Msg::GotPipeline(Ok(Pipeline::default())));
    let next = next.map(RunNumber);
    story.happens(Msg::GotRuns { before: None, answer: Ok(common::Page { runs, next }) });
    story
}

fn numbers(story: &Story) -> Vec<u64> {
    match &story.runs_page().runs {
        Remote::Loaded(history) => history.runs.iter().map(|run| run.run.0).collect(),
        Remote::Loading | Remote::Failed(_) => panic!("no runs"),
    }
}

#[test]
fn the_first_page_fetches_what_it_shows_and_listens() {
    let story = Story::at("/");
    assert_eq!(
        story.effects,
        [
            Effect::CloseOutput,
            Effect::OpenFeed(Feed::Runs),
            Effect::FetchPipeline,
            Effect::FetchRuns { before: None },
            Effect::ScrollToTop,
            Effect::FetchBoss,
        ]
    );
}

#[test]
fn a_run_is_started_once_and_then_shown() {
    let mut story = with_runs(vec![], None);
    assert_eq!(story.happens(Msg::WantRun { only: None }), [Effect::StartRun { only: None }]);
    assert_eq!(story.happens(Msg::WantRun { only: None }), [Effect::Still]);
    let effects = story.happens(Msg::RunStarted(Ok(RunNumber(8))));
    assert!(effects.contains(&Effect::PushUrl(Route::Run(RunNumber(8)))));
    assert!(effects.contains(&Effect::OpenFeed(Feed::Run { run: RunNumber(8), after: 0 })));
    assert_eq!(story.run_page().run, RunNumber(8));
}

#[test]
fn a_refused_start_stays_on_screen_and_can_be_repeated() {
    let mut story = with_runs(vec![], None);
    story.happens(Msg::WantRun { only: None });
    assert_eq!(story.happens(Msg::RunStarted(Err(problem("the disk is full")))), [Effect::FetchPipeline]);
    assert!(story.html().contains("the disk is full"));
    assert_eq!(story.happens(Msg::WantRun { only: None }), [Effect::StartRun { only: None }]);
    assert!(!story.html().contains("the disk is full"));
}

#[test]
fn runs_come_and_go_live() {
    let mut story = with_runs(vec![summary(3, "ended"), summary(1, "ended")], None);
    story.happens(Msg::RunChanged(summary(4, "running")));
    story.happens(Msg::RunChanged(summary(2, "ended")));
    assert_eq!(numbers(&story), [4, 3, 2, 1]);
    assert_eq!(ticking(&story.model), Some(100));
    story.happens(Msg::RunChanged(summary(4, "ended")));
    assert_eq!(numbers(&story), [4, 3, 2, 1]);
    assert_eq!(ticking(&story.model), Some(30_000));
}

#[test]
fn older_runs_are_added_below() {
    let mut story = with_runs(vec![summary(3, "ended")], Some(3));
    assert_eq!(story.happens(Msg::WantOlderRuns), [Effect::FetchRuns { before: Some(RunNumber(3)) }]);
    let older = common::Page { runs: vec![summary(2, "ended")], next: None };
    story.happens(Msg::GotRuns { before: Some(RunNumber(3)), answer: Ok(older) });
    assert_eq!(numbers(&story), [3, 2]);
    assert_eq!(story.happens(Msg::WantOlderRuns), []);
}

#[test]
fn what_is_on_screen_outlives_a_failed_fetch() {
    let mut story = with_runs(vec![summary(3, "ended")], None);
    story.happens(Msg::GotRuns { before: None, answer: Err(problem("the boss does not answer")) });
    assert_eq!(numbers(&story), [3]);
}

#[test]
fn after_a_lost_connection_the_list_is_read_again() {
    let mut story = with_runs(vec![summary(3, "running")], None);
    story.happens(Msg::FeedOpened);
    story.happens(Msg::FeedLost { feed: Feed::Runs, gave_up: false });
    assert_eq!(story.model.live, Live::Lost { tries: 0 });
    assert_eq!(story.happens(Msg::FeedOpened), [Effect::FetchRuns { before: None }, Effect::FetchPipeline]);
    assert_eq!(story.model.live, Live::Open);
}

#[test]
fn a_mended_pipedef_shows_when_the_window_has_the_focus_again() {
    let mut story = with_runs(vec![], None);
    assert!(story.happens(Msg::Focused).contains(&Effect::FetchPipeline));
}

#[test]
fn a_login_link_is_used_up_and_goes_out_of_sight() {
    let flags = Flags {
        route: Route::Run(RunNumber(7)),
        code: Some("XXXX".to_owned()),
        now_ms: BEGAN_MS,
        utc_offset_min: 0,
        wrap: false,
        can_copy: false,
    };
    let (mut model, effects) = init(flags);
    assert_eq!(effects, [Effect::ReplaceUrl(Route::Run(RunNumber(7))), Effect::LogIn("XXXX".to_owned())]);
    let effects = update(&mut model, Msg::LoggedIn);
    assert!(effects.contains(&Effect::OpenFeed(Feed::Run { run: RunNumber(7), after: 0 })));
}

#[test]
fn without_a_session_the_page_says_how_to_get_one_and_tries_when_seen_again() {
    let mut story = with_runs(vec![], None);
    let effects = story.happens(Msg::LoggedOut(problem("this browser is not logged in")));
    assert_eq!(effects, [Effect::CloseFeed, Effect::CloseOutput]);
    assert!(story.html().contains("bettertest open"));
    // Keys do nothing now, and nothing ticks.
    assert_eq!(ticking(&story.model), None);
    assert!(story.happens(Msg::Seen(true)).contains(&Effect::FetchPipeline));
    assert_eq!(story.model.session, Session::Open);
}

#[test]
fn out_of_sight_the_list_gives_back_its_connection() {
    let mut story = with_runs(vec![summary(3, "running")], None);
    assert_eq!(story.happens(Msg::Seen(false)), [Effect::CloseFeed]);
    let effects = story.happens(Msg::Seen(true));
    assert!(
        effects.contains(&Effect::OpenFeed(Feed::Runs))
            && effects.contains(&Effect::FetchRuns { before: None })
    );
}

#[test]
fn a_stage_or_a_task_is_started_alone() {
    let mut story = with_runs(vec![], None);
    let stage = |name: &str, tasks: &[&str]| common::Stage {
        name: name.to_owned(),
        always: false,
        tasks: tasks.iter().map(|name| common::Task { name: (*name).to_owned(), line: None }).collect(),
    };
    let stages = vec![stage("TestUnit", &["models", "views"]), stage("TestWeb", &["login"])];
    story.happens(Msg::GotPipeline(Ok(common::Pipeline { stages })));
    let html = story.html();
    assert_eq!(html.matches("Run stage").count(), 2);
    assert!(html.contains("title=\"run TestUnit.views alone\""), "{html}");
    let only = Some(vec![super::story::task("TestUnit.views")]);
    assert_eq!(story.happens(Msg::WantRun { only: only.clone() }), [Effect::StartRun { only }]);
    assert_eq!(story.happens(Msg::WantRun { only: None }), [Effect::Still]);
}

#[test]
fn how_the_workers_are_is_asked_when_somebody_looks() {
    let mut story = Story::at("/");
    assert_eq!(story.happens(Msg::GotPipeline(Ok(Pipeline::default()))), [Effect::FetchWorkers]);
    assert!(story.html().contains("Asking the workers"));
    let sample = |json: &str| serde_json::from_str::<common::WorkerView>(json).unwrap();
    let workers = vec![
        sample(include_str!("../../../common/wire/worker_view_well.json")),
        sample(include_str!("../../../common/wire/worker_view_away.json")),
    ];
    let told = common::WorkersView { workers, unread: None };
    story.happens(Msg::GotWorkers(Ok(told.clone())));
    let unread = Some(super::story::problem("line 2 of workers.toml is no address and token"));
    assert!(!story.html().contains("workers.toml"));
    story.happens(Msg::GotWorkers(Ok(common::WorkersView { unread, ..told })));
    assert!(story.html_from("workers.toml cannot be read", "</section>").contains("line 2 of workers.toml"));
    let well = story.html_from("<li class=\"worker passed", "</li>");
    assert!(well.contains("<span class=\"word\">well</span>"), "{well}");
    assert!(well.contains("docker, 2 slots, version 0.1.0"), "{well}");
    let away = story.html_from("<li class=\"worker errored", "</li>");
    for words in ["http://build-1:9009", "not well", "nothing listens there", "bettertest --worker"] {
        assert!(away.contains(words), "{away}");
    }
    let key = crate::keys::Key { name: "h".to_owned(), focus: crate::keys::Focus::Page };
    assert_eq!(story.happens(Msg::Pressed(key)), [Effect::FetchWorkers]);
    assert_eq!(story.runs_page().workers, Remote::Loading);
}

#[test]
fn a_run_that_is_removed_goes_from_the_list_and_its_page_says_so() {
    let mut story = Story::at("/");
    let runs = vec![summary(3, "ended"), summary(2, "ended")];
    story.happens(Msg::GotRuns { before: None, answer: Ok(common::Page { runs, next: None }) });
    story.happens(Msg::RunRemoved(RunNumber(2)));
    let Remote::Loaded(history) = &story.runs_page().runs else { panic!("the runs are there") };
    assert_eq!(history.runs.iter().map(|run| run.run.0).collect::<Vec<_>>(), [3]);
    let mut story = Story::of_run_7();
    assert_eq!(story.happens(Msg::RunRemoved(RunNumber(2))), [Effect::Still]);
    assert_eq!(story.happens(Msg::RunRemoved(RunNumber(7))), [Effect::Probe(RunNumber(7))]);
}
