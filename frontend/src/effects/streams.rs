//! The two streams: events by `EventSource`, an attempt's output as raw bytes by `fetch`.

use gloo_events::EventListener;
use serde::de::DeserializeOwned;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortController, AbortSignal, Event, EventSource, MessageEvent, RequestInit};
use web_sys::{ReadableStreamDefaultReader, Response};

use super::http::{self, Refusal};
use super::inbox::Inbox;
use crate::model::OutputOf;
use crate::update::{Feed, Msg};

/// Closed when dropped.
pub(super) struct OpenFeed {
    source: EventSource,
    _listeners: Vec<EventListener>,
}

/// What an event of the stream means.
type Told = Box<dyn Fn(&EventSource, &Event) -> Msg>;

impl OpenFeed {
    pub(super) fn open(inbox: &Rc<Inbox>, feed: Feed) -> Option<OpenFeed> {
        let url = match feed {
            Feed::Runs => "/api/events".to_owned(),
            Feed::Run { run, after: 0 } => format!("/api/runs/{run}/events"),
            Feed::Run { run, after } => format!("/api/runs/{run}/events?after={after}"),
        };
        let source = EventSource::new(&url).ok()?;
        let listen = |name: &'static str, msg: Told| {
            let (inbox, of) = (inbox.clone(), source.clone());
            EventListener::new(&source, name, move |event| inbox.push(msg(&of, event)))
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
        ];
        Some(OpenFeed { source, _listeners: listeners })
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
    let (inbox, signal) = (inbox.clone(), controller.signal());
    spawn_local(async move {
        let end = follow(&inbox, &of, from, &signal).await;
        if !signal.aborted() {
            inbox.push(end);
        }
    });
    Some(controller)
}

/// Answers what the stream's end means.
async fn follow(inbox: &Rc<Inbox>, of: &OutputOf, from: u64, signal: &AbortSignal) -> Msg {
    let init = if from > 0 { http::ranged(format!("bytes={from}-")) } else { RequestInit::new() };
    init.set_signal(Some(signal));
    let url = format!("{}?attempt={}&follow=1", http::output_url(of), of.attempt);
    let response = match http::send(&url, None, Some(init)).await {
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
    match read_all(inbox, of, at, &response, signal).await {
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
