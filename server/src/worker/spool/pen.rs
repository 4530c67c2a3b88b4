//! What a step's life writes with. The writer works on a thread of its own: a disk that stalls must not stall
//! those who serve readers.

use bytes::Bytes;
use common::{StepEvent, Stream};
use std::io;
use tokio::sync::{mpsc, oneshot};

use super::Decision;
use super::writer::{Unpublished, Writer};

/// How many batches of output may wait for the disk before their engine has to.
const WAITING: usize = 3;

/// What a step's life tells its writer. Dropping it makes the writer finish what it was given.
pub(crate) struct Pen {
    entries: mpsc::Sender<Entry>,
    thread: tokio::task::JoinHandle<()>,
}

enum Entry {
    Output(Stream, Bytes),
    Settle,
    Say(StepEvent, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
    Decide(Decision, oneshot::Sender<io::Result<()>>),
    End(StepEvent, oneshot::Sender<io::Result<Unpublished>>),
}

impl Pen {
    pub(crate) fn new(writer: Writer) -> Pen {
        let (entries, waiting) = mpsc::channel(WAITING);
        Pen { entries, thread: tokio::task::spawn_blocking(move || write_all(writer, waiting)) }
    }

    pub(crate) async fn output(&self, stream: Stream, bytes: Bytes) {
        // Without a writer there is a panic, which `end` will find; the output is past saving.
        drop(self.entries.send(Entry::Output(stream, bytes)).await);
    }

    pub(crate) async fn settle(&self) {
        drop(self.entries.send(Entry::Settle).await);
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

    pub(crate) async fn end(self, event: StepEvent) -> io::Result<Unpublished> {
        self.ask(|answer| Entry::End(event, answer)).await
    }

    /// Leaves the spool without an end, with everything in it that was told.
    pub(crate) async fn put_down(self) {
        drop(self.entries);
        if let Err(error) = self.thread.await {
            tracing::error!("the writer of a spool failed: {error}");
        }
    }

    async fn ask<T>(&self, entry: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Entry) -> io::Result<T> {
        let gone = || io::Error::other("the writer of this spool is gone");
        let (answer, answered) = oneshot::channel();
        self.entries.send(entry(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
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
                Entry::End(event, answer) => {
                    drop(answer.send(writer.end(&event)));
                    return;
                }
            }
            next = entries.try_recv().ok();
        }
        writer.flush_output();
    }
}
