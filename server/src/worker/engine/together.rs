//! Work that several wait for, done once: who comes while it is under way joins it, and it goes on for as long as
//! anybody waits. What came of it is told to those who waited and not kept.

use common::Reason;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

use super::{Fault, News};

/// By what it is about, such as the name of an image.
pub(super) struct Together<T>(Arc<Mutex<HashMap<String, watch::Sender<State<T>>>>>);

enum State<T> {
    Going(Option<News>),
    Done(Result<T, Fault>),
}

/// Tells everybody who waits how far it is.
pub(super) struct Teller<T>(watch::Sender<State<T>>);

impl<T> Teller<T> {
    pub(super) fn tell(&self, news: News) {
        self.0.send_replace(State::Going(Some(news)));
    }
}

impl<T> Default for Together<T> {
    fn default() -> Together<T> {
        Together(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Together<T> {
    /// Joins the work on this that is under way, or begins it.
    pub(super) async fn wait<Work>(
        &self,
        about: &str,
        news: &watch::Sender<Option<News>>,
        begin: impl FnOnce(Teller<T>) -> Work,
    ) -> Result<T, Fault>
    where
        Work: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut state = self.join(about, begin);
        loop {
            match &*state.borrow_and_update() {
                State::Going(latest) => drop(news.send_replace(latest.clone())),
                State::Done(result) => return result.clone(),
            }
            if state.changed().await.is_err() {
                let message = format!("preparing {about} broke off");
                return Err(Fault::new(Reason::PullFailed, message, "try again"));
            }
        }
    }

    fn join<Work>(&self, about: &str, begin: impl FnOnce(Teller<T>) -> Work) -> watch::Receiver<State<T>>
    where
        Work: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut works = self.lock();
        if let Some(under_way) = works.get(about) {
            return under_way.subscribe();
        }
        let (tell, state) = watch::channel(State::Going(None));
        works.insert(about.to_owned(), tell.clone());
        let work = begin(Teller(tell.clone()));
        // It ends by itself, or once nobody waits for it any more.
        tokio::spawn(Together(Arc::clone(&self.0)).see_through(about.to_owned(), work, tell));
        state
    }

    async fn see_through(
        self,
        about: String,
        work: impl Future<Output = Result<T, Fault>>,
        tell: watch::Sender<State<T>>,
    ) {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                () = tell.closed() => {
                    let mut works = self.lock();
                    // Somebody may have joined since.
                    if tell.receiver_count() == 0 {
                        works.remove(&about);
                        return;
                    }
                }
            }
        };
        self.lock().remove(&about);
        tell.send_replace(State::Done(result));
    }

    /// Held for a few instructions only, never over an await.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<State<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
