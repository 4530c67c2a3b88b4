//! What the stories are told with: a page, events as a boss would send them, and the page's HTML.

use common::{
    Command, Pipeline, Problem, Reason, RunEvent, RunFact, RunKey, RunNumber, Seq, Stage, StepEvent,
};
use common::{StepId, StepSpec, Task, TaskId, Verdict};
use yew::prelude::*;

use crate::model::{Model, Page, RunPage, RunsPage, TaskPane};
use crate::route::Route;
use crate::update::{Effect, Flags, Msg, init, update};
use crate::view;

/// A moment of which clocks show 14:00.
pub(super) const BEGAN_MS: u64 = 1_790_000_000_000 - 1_790_000_000_000 % 86_400_000 + 14 * 3_600_000;

/// A page, and what it last wanted done.
pub(super) struct Story {
    pub(super) model: Model,
    pub(super) effects: Vec<Effect>,
    seq: u64,
}

pub(super) fn task(id: &str) -> TaskId {
    TaskId::try_from(id.to_owned()).unwrap()
}

pub(super) fn step(n: u32) -> StepId {
    StepId::try_from(format!("step-{n}")).unwrap()
}

pub(super) fn problem(error: &str) -> Problem {
    Problem::new(error, "do this")
}

impl Story {
    pub(super) fn at(url: &str) -> Story {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let flags = Flags {
            route: Route::read(path, query),
            code: None,
            now_ms: BEGAN_MS,
            utc_offset_min: 0,
            wrap: false,
            can_copy: true,
        };
        let (model, effects) = init(flags);
        Story { model, effects, seq: 0 }
    }

    /// Run 7, with two stages: TestUnit of `models` and `views`, then TestWeb of `login`.
    pub(super) fn of_run_7() -> Story {
        let mut story = Story::at("/runs/7");
        story.says(started());
        story
    }

    pub(super) fn happens(&mut self, msg: Msg) -> &[Effect] {
        self.effects = update(&mut self.model, msg);
        &self.effects
    }

    pub(super) fn goes_to(&mut self, url: &str) -> &[Effect] {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        self.happens(Msg::GoTo(Route::read(path, query)))
    }

    /// One more event of run 7, a tenth of a second later.
    pub(super) fn says(&mut self, fact: RunFact) -> &[Effect] {
        self.seq += 1;
        self.model.now_ms = BEGAN_MS + 100 * (self.seq - 1);
        let event = RunEvent { seq: Seq(self.seq), at_ms: self.model.now_ms, fact };
        self.happens(Msg::Event { run: RunNumber(7), event: Box::new(event) })
    }

    pub(super) fn starts(&mut self, id: &str, attempt: u32) -> &[Effect] {
        self.says(RunFact::TaskStarted { task: task(id), attempt })
    }

    /// The first step of an attempt, named by `n`, is asked for and runs.
    pub(super) fn steps(&mut self, id: &str, attempt: u32, n: u32, command: &str) {
        let mut spec = StepSpec::new("shop-test", Command::Shell(command.to_owned()));
        spec.only_tests = (command == "pytest").then(|| "pytest {tests}".to_owned());
        let worker = "http://localhost:9009".to_owned();
        self.says(RunFact::StepAsked {
            task: task(id),
            attempt,
            step: step(n),
            worker,
            spec: Box::new(spec),
            instead_of: None,
        });
        let started = StepEvent::Started {
            container: "c".to_owned(),
            image_digest: Some("sha256:0".to_owned()),
            engine: "fake".to_owned(),
            engine_why: None,
        };
        self.worker_says(id, attempt, n, 1, started);
    }

    pub(super) fn worker_says(
        &mut self,
        id: &str,
        attempt: u32,
        n: u32,
        position: u64,
        said: StepEvent,
    ) -> &[Effect] {
        self.says(RunFact::Step { task: task(id), attempt, step: step(n), position, said })
    }

    pub(super) fn exits(&mut self, id: &str, attempt: u32, n: u32, exit_code: u8) {
        let said = StepEvent::Exited {
            exit_code,
            oom: false,
            took_ms: 1_234,
            signal: None,
            cpu_ms: None,
            peak_memory_bytes: None,
            image_digest: None,
            message: None,
        };
        self.worker_says(id, attempt, n, 100, said);
    }

    pub(super) fn ends(
        &mut self,
        id: &str,
        attempt: u32,
        verdict: Verdict,
        problem: Option<Problem>,
    ) -> &[Effect] {
        self.says(RunFact::TaskEnded {
            task: task(id),
            attempt,
            verdict,
            took_ms: 1_500,
            problem,
            tests: None,
        })
    }

    /// A task from its start to its end, by one step.
    pub(super) fn passes(&mut self, id: &str, attempt: u32, n: u32) {
        self.starts(id, attempt);
        self.steps(id, attempt, n, "true");
        self.exits(id, attempt, n, 0);
        self.ends(id, attempt, Verdict::Passed, None);
    }

    pub(super) fn fails(&mut self, id: &str, attempt: u32, n: u32) -> &[Effect] {
        self.starts(id, attempt);
        self.steps(id, attempt, n, "false");
        self.exits(id, attempt, n, 1);
        self.ends(id, attempt, Verdict::Not(Reason::CommandFailed), Some(problem("exit code 1 from: false")))
    }

    /// `models` fails, `views` passes, so `login` is skipped and the run ends.
    pub(super) fn is_red() -> Story {
        let mut story = Story::of_run_7();
        story.fails("TestUnit.models", 1, 1);
        story.passes("TestUnit.views", 1, 2);
        story.says(RunFact::TaskSkipped {
            task: task("TestWeb.login"),
            why: common::SkipReason::EarlierStage,
        });
        story.says(RunFact::RunEnded { verdict: Verdict::Not(Reason::CommandFailed) });
        story
    }

    pub(super) fn run_page(&self) -> &RunPage {
        self.model.run_page().expect("a run is shown")
    }

    pub(super) fn runs_page(&self) -> &RunsPage {
        match &self.model.page {
            Page::Runs(page) => page,
            Page::Run(_) | Page::Doctor(_) | Page::Nowhere => panic!("the runs are not shown"),
        }
    }

    pub(super) fn pane(&self) -> &TaskPane {
        self.run_page().task.as_ref().expect("a task is shown")
    }

    /// The whole page as HTML, a line per element.
    pub(super) fn html(&self) -> String {
        let drawn = view::view(&self.model, &Callback::noop());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rendered = tokio::task::LocalSet::new().block_on(&runtime, async move {
            yew::LocalServerRenderer::<Drawn>::with_props(DrawnProps { drawn })
                .hydratable(false)
                .render()
                .await
        });
        rendered.replace("><", ">\n<")
    }

    /// The lines of the page's HTML from one that contains `from` up to the next that contains `to`.
    pub(super) fn html_from(&self, from: &str, to: &str) -> String {
        let html = self.html();
        let lines: Vec<&str> = html.lines().collect();
        let begin = lines
            .iter()
            .position(|line| line.contains(from))
            .unwrap_or_else(|| panic!("no {from} in\n{html}"));
        let end = lines[begin..].iter().position(|line| line.contains(to)).expect(to) + begin;
        lines[begin..=end].join("\n")
    }
}

pub(super) fn started() -> RunFact {
    let tasks =
        |names: &[&str]| names.iter().map(|name| Task { name: (*name).to_owned(), line: None }).collect();
    let stage =
        |name: &str, names: &[&str]| Stage { name: name.to_owned(), always: false, tasks: tasks(names) };
    RunFact::RunStarted {
        run: RunNumber(7),
        key: RunKey::from_random(7),
        pipeline: Pipeline {
            stages: vec![stage("TestUnit", &["models", "views"]), stage("TestWeb", &["login"])],
        },
        only: None,
        started_by: None,
        source: None,
    }
}

#[derive(Properties, PartialEq)]
struct DrawnProps {
    drawn: Html,
}

#[component]
fn Drawn(props: &DrawnProps) -> Html {
    props.drawn.clone()
}
