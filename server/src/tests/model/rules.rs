//! What is put to the test: how a restarted boss goes on, in the variants that were thought of, and mistakes that
//! the checker has to find.

/// How a boss goes on with an attempt that it finds unended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) order: Order,
    pub(super) unasked: Unasked,
    pub(super) cancelled: CancelledEnds,
    pub(super) pace: Pace,
    pub(super) fault: Option<Fault>,
}

/// The rules chosen: `agents/decisions/0006-replay.md`.
pub(super) const CHOSEN: Rules = Rules {
    order: Order::OfTheLog,
    unasked: Unasked::RaisedStands,
    cancelled: CancelledEnds::WordStored,
    pace: Pace::Any,
    fault: None,
};

/// When an end is told to Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    AtOnce,
    /// After everything that the log has before it: calls asked again, ends told. Also where nothing is replayed.
    OfTheLog,
}

/// What becomes of an attempt with recorded steps that the replay did not ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unasked {
    AlwaysDiverged,
    /// Diverged where it returned. What it raised stands.
    RaisedStands,
}

/// Steps that the boss itself cancelled because the task was over, and a crash before the task's end was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CancelledEnds {
    /// Told to the replayed Python like any other end.
    Told,
    /// Never told, as they never were.
    Held,
    /// The last word is stored before anything is cancelled, and Python is not executed again after it.
    WordStored,
}

/// Who is faster than whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Anything may come before anything: nothing is promised to a pipedef.
    Any,
    /// Python reacts before the next thing happens, as it nearly always does.
    PythonIsQuick,
}

/// Mistakes of a boss or a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A replayed call is a new step.
    FreshIds,
    /// The same spec on two workers is one step.
    IdsWithoutWorker,
    /// Two runs share their steps.
    IdsWithoutRun,
    /// Equal calls are counted in the log, not in this execution.
    CountAcrossAttempts,
    /// A replay is recorded as a start.
    SecondTaskStarted,
    /// A step without a recorded end is taken for passed.
    AnswerUnended,
    /// The worker starts a known id again.
    StartAgain,
    /// Output is read again from the log's position, which lies before what is stored.
    PositionFromLog,
    /// An end is recorded before the output in front of it is stored.
    OutputLags,
    /// Bytes are written before the mark that tells whose they are.
    BytesBeforeMark,
    /// A recorded step is taken for never started.
    CancelUnseen,
    /// A recorded step that its worker does not know yet is taken for never started.
    UnknownIsGone,
    /// Recorded steps that a replay did not ask for are forgotten.
    ForgetUnasked,
    /// The log does not tell a refusal from a cancel.
    RefusalAsCancel,
}

impl Fault {
    pub(super) const ALL: [Fault; 14] = [
        Fault::FreshIds,
        Fault::IdsWithoutWorker,
        Fault::IdsWithoutRun,
        Fault::CountAcrossAttempts,
        Fault::SecondTaskStarted,
        Fault::AnswerUnended,
        Fault::StartAgain,
        Fault::PositionFromLog,
        Fault::OutputLags,
        Fault::BytesBeforeMark,
        Fault::CancelUnseen,
        Fault::UnknownIsGone,
        Fault::ForgetUnasked,
        Fault::RefusalAsCancel,
    ];
}
