//! What a step's life writes with. The writer works on a thread of its own, for it waits for the disk: neither
//! those who serve readers nor other writers are to wait with it. Ten thousand steps that are only queued have
//! nothing to write, so both thread and file come with the first word.

use bytes::Bytes;
use common::{Artifacts, StepEvent, Stream};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

use super::writer::{Unpublished, Writer};
use super::{Decision, Meter, Spool};

/// How many batches of output may wait for the disk before their engine has to.
const WAITING: usize = 3;

/// Dropping it makes the writer finish what it was given.
pub(crate) struct Pen(Mutex<State>);

enum State {
    Unused {
        spool: Arc<Spool>,
        meter: Arc<Meter>,
        cap_bytes: u64,
    },
    Writing {
        entries: mpsc::Sender<Entry>,
        /// Comes, as an error, when the thread is through.
        through: oneshot::Receiver<()>,
    },
    /// No thread could be had.
    Broken,
}

enum Entry {
    Output(Stream, Bytes),
    Settle,
    Say(StepEvent, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
    Decide(Decision, oneshot::Sender<io::Result<()>>),
    End(Option<Artifacts>, StepEvent, oneshot::Sender<()>, oneshot::Sender<io::Result<Unpublished>>),
}

impl Pen {
    pub(crate) fn new(spool: Arc<Spool>, meter: Arc<Meter>, cap_bytes: u64) -> Pen {
        Pen(Mutex::new(State::Unused { spool, meter, cap_bytes }))
    }

    pub(crate) async fn output(&self, stream: Stream, bytes: Bytes) {
        self.send(Entry::Output(stream, bytes)).await;
    }

    pub(crate) async fn settle(&self) {
        self.send(Entry::Settle).await;
    }

    pub(crate) async fn say(&self, event: StepEvent) -> io::Result<()> {
        self.ask(|answer| Entry::Say(event, answer)).await
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.ask(Entry::Sync).await
    }

    pub(crate) async fn decide(&self, decision: Decision) -> io::Result<()> {
        self.ask(|answer| Entry::Decide(decision, answer)).await
    }

    /// `written` hears of it once it survives this process, which is before it survives a loss of power.
    /// What was kept of its files is told in one with it.
    pub(crate) async fn end(
        self,
        artifacts: Option<Artifacts>,
        event: StepEvent,
        written: oneshot::Sender<()>,
    ) -> io::Result<Unpublished> {
        self.ask(|answer| Entry::End(artifacts, event, written, answer)).await
    }

    /// Leaves the spool without an end, with everything in it that was told.
    pub(crate) async fn put_down(self) {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let State::Writing { entries, through } = state {
            drop(entries);
            // Always an error: nothing is ever sent.
            drop(through.await);
        }
    }

    /// Without a writer the output is past saving; `end` will find that there is none.
    async fn send(&self, entry: Entry) {
        if let Some(entries) = self.entries() {
            drop(entries.send(entry).await);
        }
    }

    async fn ask<T>(&self, entry: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Entry) -> io::Result<T> {
        let gone = || io::Error::other("the writer of this spool is gone");
        let (answer, answered) = oneshot::channel();
        let entries = self.entries().ok_or_else(gone)?;
        entries.send(entry(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The way to the writer, whose thread begins here if it has not yet.
    fn entries(&self) -> Option<mpsc::Sender<Entry>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unused { spool, meter, cap_bytes } = &*state {
            let (spool, meter, cap_bytes) = (spool.clone(), meter.clone(), *cap_bytes);
            let (entries, waiting) = mpsc::channel(WAITING);
            let (still_there, through) = oneshot::channel::<()>();
            let write = move || {
                match Writer::open(spool, meter, cap_bytes) {
                    Ok(writer) => write_all(writer, waiting),
                    // Whoever asks for something to be written is told that nobody does.
                    Err(error) => tracing::error!("a spool cannot be written: {error}"),
                }
                drop(still_there);
            };
            *state = match std::thread::Builder::new().name("spool".to_owned()).spawn(write) {
                // It ends with its entries, and `through` tells.
                Ok(_) => State::Writing { entries, through },
                Err(error) => {
                    tracing::error!("no thread can be had to write a spool: {error}");
                    State::Broken
                }
            };
        }
        match &*state {
            State::Writing { entries, .. } => Some(entries.clone()),
            State::Unused { .. } | State::Broken => None,
        }
    }
}

fn write_all(mut writer: Writer, mut entries: mpsc::Receiver<Entry>) {
    while let Some(entry) = entries.blocking_recv() {
        let mut next = Some(entry);
        while let Some(entry) = next {
            match entry {
                Entry::Output(stream, bytes) => writer.output(stream, &bytes),
                Entry::Settle => writer.settle(),
                // Whoever asked may be gone; what was to be done is done.
                Entry::Say(event, answer) => drop(answer.send(writer.say(&event))),
                Entry::Sync(answer) => drop(answer.send(writer.sync())),
                Entry::Decide(decision, answer) => drop(answer.send(writer.decide(decision))),
                Entry::End(artifacts, event, written, answer) => {
                    // Nobody may care.
                    drop(answer.send(writer.end(artifacts, &event, || {
                        let _ = written.send(());
                    })));
                    return;
                }
            }
            next = entries.try_recv().ok();
        }
        writer.flush_output();
    }
}
