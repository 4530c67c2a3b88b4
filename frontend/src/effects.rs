//! The only code that knows the browser: what `update` wants done is done here, and what happens in the browser
//! becomes a `Msg` here.

mod http;
mod inbox;
mod streams;
mod window;

use gloo_events::EventListener;
use gloo_timers::callback::{Interval, Timeout};
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{AbortController, Document, Element, HtmlElement, HtmlInputElement, InputEvent};
use web_sys::{ScrollIntoViewOptions, ScrollLogicalPosition, Window};

use crate::app::App;
use crate::log::Viewport;
use crate::model::OutputOf;
use crate::update::{Effect, Flags, LOG_ELEMENT, Msg};
use inbox::Inbox;
use streams::OpenFeed;

const WRAP_KEY: &str = "bettertest.wrap";
/// Narrower than this, long lines are wrapped unless somebody has said otherwise.
const NARROW_PX: f64 = 640.0;

/// Draws the page into the document.
pub(crate) fn mount() {
    let root = element("app").expect("index.html has it");
    yew::Renderer::<App>::with_root(root).render();
}

/// What somebody has typed into a field.
pub(crate) fn typed(event: &InputEvent) -> String {
    event
        .target()
        .and_then(|field| field.dyn_into::<HtmlInputElement>().ok())
        .map(|f| f.value())
        .unwrap_or_default()
}

pub(crate) struct Browser {
    inbox: Rc<Inbox>,
    feed: Option<OpenFeed>,
    output: Option<AbortController>,
    ticking: Option<(u32, Interval)>,
    /// What the tab says now.
    entitled: (String, &'static str),
    _listeners: Vec<EventListener>,
}

impl Browser {
    pub(crate) fn new(send: impl Fn(Vec<Msg>) + 'static) -> Browser {
        let inbox = Rc::new(Inbox::new(send));
        Browser {
            _listeners: window::listen(&inbox),
            inbox,
            feed: None,
            output: None,
            ticking: None,
            entitled: Default::default(),
        }
    }

    pub(crate) fn flags(&self) -> Flags {
        let location = page().location();
        let hash = location.hash().unwrap_or_default();
        Flags {
            route: window::route_here(),
            code: hash.strip_prefix("#code=").map(str::to_owned),
            now_ms: self.now_ms(),
            utc_offset_min: -js_sys::Date::new_0().get_timezone_offset() as i32,
            wrap: wraps(),
            can_copy: page().is_secure_context(),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        js_sys::Date::now() as u64
    }

    pub(crate) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Still => {}
            Effect::PushUrl(route) => window::go_to(&route, false),
            Effect::ReplaceUrl(route) => window::go_to(&route, true),
            Effect::Later { ms, msg } => {
                let inbox = self.inbox.clone();
                Timeout::new(ms, move || inbox.send(*msg)).forget();
            }

            Effect::LogIn(_)
            | Effect::FetchBoss
            | Effect::FetchPipeline
            | Effect::FetchWorkers
            | Effect::FetchCheckup
            | Effect::FetchRuns { .. }
            | Effect::StartRun { .. }
            | Effect::Cancel(_)
            | Effect::Rerun { .. }
            | Effect::RerunFailedTests(_)
            | Effect::Probe(_)
            | Effect::FetchMarks(_)
            | Effect::FetchTail(_)
            | Effect::FetchPacket(_)
            | Effect::FetchTests(_)
            | Effect::FetchTestHistory { .. } => http::perform(&self.inbox, effect),

            Effect::OpenFeed(feed) => {
                // The one before ends first, and nothing that it said is still on its way.
                self.feed = None;
                self.inbox.forget_feed();
                self.feed = OpenFeed::open(&self.inbox, feed);
            }
            Effect::CloseFeed => {
                self.feed = None;
                self.inbox.forget_feed();
            }
            Effect::OpenOutput { of, from } => self.open_output(of, from),
            Effect::CloseOutput => self.close_output(),

            Effect::MeasureLog => {
                if let Some(seen) = measure() {
                    self.inbox.send(Msg::LogMeasured(seen));
                }
            }
            Effect::ScrollLogTo(px) => scroll_log(|_| px as i32),
            Effect::ScrollLogToEnd => scroll_log(|log| log.scroll_height()),
            Effect::ScrollToTop => page().scroll_to_with_x_and_y(0.0, 0.0),
            Effect::Focus(id) => {
                if let Some(html) = element(&id).and_then(|e| e.dyn_into::<HtmlElement>().ok()) {
                    // It fails on what cannot have the focus; then nothing is lost.
                    let _ = html.focus();
                }
            }
            Effect::Reveal(id) => {
                if let Some(element) = element(&id) {
                    let how = ScrollIntoViewOptions::new();
                    how.set_block(ScrollLogicalPosition::Nearest);
                    element.scroll_into_view_with_scroll_into_view_options(&how);
                }
            }
            Effect::Copy(text) => http::copy(&self.inbox, text),
            Effect::SaveWrap(wrap) => {
                if let Some(storage) = storage() {
                    // A full or forbidden storage only means that it is asked for again next time.
                    let _ = storage.set_item(WRAP_KEY, if wrap { "yes" } else { "no" });
                }
            }
        }
    }

    /// From now on, a `Tick` so often.
    pub(crate) fn tick(&mut self, ms: Option<u32>) {
        if self.ticking.as_ref().map(|(now, _)| *now) != ms {
            let inbox = self.inbox.clone();
            self.ticking = ms.map(|ms| (ms, Interval::new(ms, move || inbox.send(Msg::Tick))));
        }
    }

    /// The tab's title, and its icon in the colour of a state.
    pub(crate) fn entitle(&mut self, title: String, (state, icon): (&'static str, &'static str)) {
        if self.entitled.0 != title {
            document().set_title(&title);
            self.entitled.0 = title;
        }
        if self.entitled.1 != state {
            self.entitled.1 = state;
            if let Some(link) = element("icon") {
                // An attribute of ours with a value of ours: there is nothing to refuse.
                let _ = link.set_attribute("href", icon);
            }
        }
    }

    fn open_output(&mut self, of: OutputOf, from: u64) {
        self.close_output();
        self.output = streams::open_output(&self.inbox, of, from);
    }

    fn close_output(&mut self) {
        if let Some(open) = self.output.take() {
            open.abort();
        }
    }
}

fn page() -> Window {
    web_sys::window().expect("this runs in a page")
}

fn document() -> Document {
    page().document().expect("this runs in a page")
}

fn element(id: &str) -> Option<Element> {
    document().get_element_by_id(id)
}

/// None where the user has forbidden it.
fn storage() -> Option<web_sys::Storage> {
    page().local_storage().ok().flatten()
}

fn scroll_log(to: impl Fn(&Element) -> i32) {
    if let Some(log) = element(LOG_ELEMENT) {
        log.set_scroll_top(to(&log));
    }
}

fn wraps() -> bool {
    match storage().and_then(|storage| storage.get_item(WRAP_KEY).ok()?) {
        Some(said) => said == "yes",
        None => {
            page().inner_width().ok().and_then(|width| width.as_f64()).is_some_and(|width| width < NARROW_PX)
        }
    }
}

/// None where no log is on the page.
fn measure() -> Option<Viewport> {
    let log = element(LOG_ELEMENT)?;
    let character = element("log-probe")?.get_bounding_client_rect().width() / 100.0;
    let text = log.query_selector(".text").ok().flatten();
    let left_of_text = text.map_or(0.0, |text| {
        text.get_bounding_client_rect().left() - log.get_bounding_client_rect().left()
            + f64::from(log.scroll_left())
    });
    let columns = (f64::from(log.client_width()) - left_of_text) / character.max(1.0);
    let (top, height) = (f64::from(log.scroll_top()), f64::from(log.client_height()));
    Some(Viewport {
        top_px: top,
        height_px: height,
        columns: (columns as u32).max(20),
        at_end: top + height >= f64::from(log.scroll_height()) - 4.0,
    })
}
