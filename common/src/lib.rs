//! The dictionary: the words, the events and the one state machine that boss, worker and page agree on.
//!
//! A word means the same thing in code, SQL, JSON, CSS, on the command line and on the page:
//!
//! * a **pipeline** has **stages**, which run one after another; a stage has **tasks**, which run at once;
//! * a task asks for **steps**: one command in one fresh container each, executed by a **worker**, or a **build** of
//!   an image there;
//! * a **run** is one execution of a pipeline; an **attempt** is one execution of a task within a run;
//! * a **source** is a snapshot of the user's files under test: a **tree**, whose files are **blobs**;
//! * an attempt ends in one **verdict**: an **outcome**, and unless it passed, a **reason** from a closed list;
//! * an **artifact** is a file that is kept after a step;
//! * a **test** is one of what a runner (pytest, cargo, node) ran within an attempt, as told by its output;
//! * an **event** is one fact in a run's log, and **seq** is its position there.
//!
//! Nothing in here reads a clock, a file or the network, and all of it builds for wasm.

mod again;
mod api;
mod artifact;
mod build;
mod checkup;
mod frames;
mod names;
mod only_tests;
mod output;
mod packet;
mod pipeline;
mod run;
mod runner;
mod source;
mod spec;
mod step;
mod test;
mod verdict;
mod words;

pub use api::{
    BossView, Health, OnlyTasks, Page, Problem, Rerun, RunCreated, RunSummary, RunView, StepView, TaskView,
    WorkerView, WorkersView,
};
pub use artifact::{Artifact, Artifacts, AttemptArtifacts, PYTEST_REPORT, StepArtifacts, is_path};
pub use build::Build;
pub use checkup::{Check, CheckState, Checkup};
pub use frames::{FRAMES_TOLD, Frame, frames};
pub use names::{BadName, RunKey, RunNumber, Seq, StepId, TaskId, step_id};
pub use only_tests::{OnlyTests, SomeTests, TaskAgain, command_for};
pub use output::{Bytes, Mark, OutputMark, Stream};
pub use packet::{
    CHANGES_TOLD, ChangedFiles, FailedTest, Failure, NewLine, PACKET_BYTES, Packet, TESTS_TOLD, TOLD, failed,
};
pub use pipeline::{Pipeline, Stage, Task};
pub use run::{
    Attempt, AttemptEnd, IllegalTransition, Phase, RunEvent, RunFact, RunSource, RunState, StageRun,
    StartedBy, StepRun, StepState, TaskRun, TaskState,
};
pub use runner::{Runner, StepTests, TestListener, Tests};
pub use source::{
    BadManifest, BlobId, BlobsStored, Changes, Entry, EntryMode, Manifest, MissingBlobs, SourceAt, TreeId,
};
pub use spec::{Command, Network, SpecProblem, StepSpec};
pub use step::{StepEnd, StepEvent};
pub use test::{TestCounts, TestHistory, TestOutcome, TestResult, TestRun, TestView, TestsView};
pub use verdict::{Outcome, Reason, SkipReason, Verdict};
pub use words::{duration, headline, passed_again, run_tests, source_words, task_words};

#[cfg(test)]
mod tests;
