//! The two streams: events by `EventSource`, an attempt's output as raw bytes by `fetch`.

use common::RunNumber;
use gloo_events::EventListener;
use gloo_timers::callback::{Interval, Timeout};
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortController, AbortSignal, Event, EventSource, MessageEvent, RequestInit};
use web_sys::{ReadableStreamDefaultReader, Response};

use super::http::{self, Refusal};
use super::inbox::Inbox;
use crate::model::OutputOf;
use crate::update::{Feed, Msg};

/// The boss says something every 5 s. After so much silence the connection is dead, whatever the browser believes.
const SILENCE_MS: f64 = 20_000.0;
/// So long it may take to say the first word; a browser may have tried a connection that was dead already.
const ANSWER_MS: f64 = 5_000.0;
/// How often that is looked at.
const LOOK_MS: u32 = 2_000;

/// Closed when dropped.
pub(super) struct OpenFeed {
    source: EventSource,
    _watchdog: Interval,
    _listeners: Vec<EventListener>,
}

/// Of the list of all runs: there is none of that number any more.
#[derive(serde::Deserialize)]
struct Removed {
    run: RunNumber,
}

/// What an event of the stream means.
type Told = Box<dyn Fn(&EventSource, &Event) -> Msg>;

impl OpenFeed {
    pub(super) fn open(inbox: &Rc<Inbox>, feed: Feed) -> Option<OpenFeed> {
        let url = match feed {
            Feed::Runs => "/api/events?alive=1".to_owned(),
            Feed::Run { run, after: 0 } => format!("/api/runs/{run}/events?alive=1"),
            Feed::Run { run, after } => format!("/api/runs/{run}/events?alive=1&after={after}"),
        };
        let source = EventSource::new(&url).ok()?;
        let heard_ms = Rc::new(Cell::new(js_sys::Date::now()));
        let listen = |name: &'static str, msg: Told| {
            let (inbox, of, heard_ms) = (inbox.clone(), source.clone(), heard_ms.clone());
            EventListener::new(&source, name, move |event| {
                heard_ms.set(js_sys::Date::now());
                inbox.push(msg(&of, event));
            })
        };
        let alive = {
            let heard_ms = heard_ms.clone();
            EventListener::new(&source, "alive", move |_| heard_ms.set(js_sys::Date::now()))
        };
        let told = move |event: &Event| match feed {
            Feed::Runs => read(event, Msg::RunChanged),
            Feed::Run { run, .. } => read(event, |event| Msg::Event { run, event: Box::new(event) }),
        };
        let listeners = vec![
            listen("open", Box::new(|_, _| Msg::FeedOpened)),
            listen("message", Box::new(move |_, event| told(event))),
            listen(
                "end",
                Box::new(|source, _| {
                    source.close();
                    Msg::FeedEnded
                }),
            ),
            listen(
                "error",
                Box::new(move |source, _| Msg::FeedLost {
                    feed,
                    gave_up: source.ready_state() == EventSource::CLOSED,
                }),
            ),
            alive,
            listen("removed", Box::new(|_, event| read(event, |Removed { run }| Msg::RunRemoved(run)))),
        ];
        let watchdog = {
            let (inbox, of) = (inbox.clone(), source.clone());
            Interval::new(LOOK_MS, move || {
                let patience_ms = match of.ready_state() {
                    EventSource::OPEN => SILENCE_MS,
                    EventSource::CONNECTING => ANSWER_MS,
                    // It tells so itself.
                    _ => return,
                };
                if js_sys::Date::now() - heard_ms.get() > patience_ms {
                    of.close();
                    inbox.push(Msg::FeedLost { feed, gave_up: true });
                }
            })
        };
        Some(OpenFeed { source, _watchdog: watchdog, _listeners: listeners })
    }
}

impl Drop for OpenFeed {
    fn drop(&mut self) {
        self.source.close();
    }
}

fn read<T: DeserializeOwned>(event: &Event, told: impl FnOnce(T) -> Msg) -> Msg {
    let data = event.unchecked_ref::<MessageEvent>().data().as_string().unwrap_or_default();
    match serde_json::from_str(&data) {
        Ok(value) => told(value),
        Err(error) => Msg::Probed(Err(http::misunderstood(&error))),
    }
}

/// Streams an output from a byte on; the handle stops it, silently.
pub(super) fn open_output(inbox: &Rc<Inbox>, of: OutputOf, from: u64) -> Option<AbortController> {
    let controller = AbortController::new().ok()?;
    let (inbox, stop) = (inbox.clone(), controller.clone());
    spawn_local(async move {
        let late = Rc::new(Cell::new(false));
        let end = follow(&inbox, &of, from, &stop, &late).await;
        if !stop.signal().aborted() || late.get() {
            inbox.push(end);
        }
    });
    Some(controller)
}

/// Answers what the stream's end means. `late` is set where no answer came and it stopped by itself.
async fn follow(
    inbox: &Rc<Inbox>,
    of: &OutputOf,
    from: u64,
    stop: &AbortController,
    late: &Rc<Cell<bool>>,
) -> Msg {
    let signal = stop.signal();
    let init = if from > 0 { http::ranged(format!("bytes={from}-")) } else { RequestInit::new() };
    let url = format!("{}?attempt={}&follow=1", http::output_url(of), of.attempt);
    let deadline = {
        let (stop, late) = (stop.clone(), late.clone());
        Timeout::new(ANSWER_MS as u32, move || {
            late.set(true);
            stop.abort();
        })
    };
    let answer = http::send(&url, None, init, &signal).await;
    deadline.cancel();
    let response = match answer {
        Ok(response) => response,
        Err(Refusal::LoggedOut(problem)) => return Msg::LoggedOut(problem),
        Err(Refusal::Other(_)) => return Msg::OutputLost(of.clone()),
    };
    let at = match response.status() {
        200 => 0,
        206 => from,
        // There is nothing from there on.
        416 => return Msg::OutputEnded(of.clone()),
        400..500 => return Msg::OutputRefused(of.clone(), http::problem_of(&response).await),
        _ => return Msg::OutputLost(of.clone()),
    };
    match read_all(inbox, of, at, &response, &signal).await {
        Ok(()) => Msg::OutputEnded(of.clone()),
        Err(_) => Msg::OutputLost(of.clone()),
    }
}

async fn read_all(
    inbox: &Rc<Inbox>,
    of: &OutputOf,
    mut at: u64,
    response: &Response,
    signal: &AbortSignal,
) -> Result<(), JsValue> {
    let Some(body) = response.body() else { return Ok(()) };
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    loop {
        let part = JsFuture::from(reader.read()).await?;
        if signal.aborted() || js_sys::Reflect::get(&part, &"done".into())?.is_truthy() {
            return Ok(());
        }
        let bytes =
            js_sys::Reflect::get(&part, &"value".into())?.unchecked_into::<js_sys::Uint8Array>().to_vec();
        let next = at + bytes.len() as u64;
        inbox.push(Msg::Output { of: of.clone(), at, bytes });
        at = next;
        inbox.room().await;
    }
}
