//! What people do to the window as a whole: keys, links, back and forth, in and out of sight.

use gloo_events::{EventListener, EventListenerOptions};
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Element, Event, HtmlAnchorElement, KeyboardEvent, MouseEvent, VisibilityState};

use super::inbox::Inbox;
use super::{document, page};
use crate::keys::{self, Focus, Key};
use crate::route::Route;
use crate::update::{FIND_ELEMENT, FIND_TEST_ELEMENT, Msg};

pub(super) fn listen(inbox: &Rc<Inbox>) -> Vec<EventListener> {
    let on = |target: &web_sys::EventTarget, name: &'static str, msg: fn(&Event) -> Option<Msg>| {
        let inbox = inbox.clone();
        let options = EventListenerOptions::enable_prevent_default();
        EventListener::new_with_options(target, name, options, move |event| {
            if let Some(msg) = msg(event) {
                inbox.send(msg);
            }
        })
    };
    let (page, document) = (page(), document());
    vec![
        on(&page, "popstate", |_| Some(Msg::WentTo(route_here()))),
        on(&page, "focus", |_| Some(Msg::Focused)),
        on(&page, "resize", |_| Some(Msg::LogMoved)),
        on(&document, "visibilitychange", |_| {
            Some(Msg::Seen(super::document().visibility_state() == VisibilityState::Visible))
        }),
        on(&document, "click", followed),
        on(&document, "keydown", pressed),
    ]
}

pub(super) fn route_here() -> Route {
    let location = page().location();
    Route::read(&location.pathname().unwrap_or_default(), &location.search().unwrap_or_default())
}

pub(super) fn go_to(route: &Route, replace: bool) {
    let Ok(history) = page().history() else { return };
    let url = route.url();
    // Refused only for another site's address, which a route never is.
    let _ = if replace {
        history.replace_state_with_url(&JsValue::NULL, "", Some(&url))
    } else if route_here() != *route {
        history.push_state_with_url(&JsValue::NULL, "", Some(&url))
    } else {
        Ok(())
    };
}

/// A plain click on a link to one of our pages stays here. All else is the browser's.
fn followed(event: &Event) -> Option<Msg> {
    let mouse: &MouseEvent = event.dyn_ref()?;
    let plain = mouse.button() == 0
        && !(mouse.ctrl_key() || mouse.meta_key() || mouse.shift_key() || mouse.alt_key())
        && !event.default_prevented();
    let target: Element = event.target()?.dyn_into().ok()?;
    let link: HtmlAnchorElement = target.closest("a[href]").ok()??.dyn_into().ok()?;
    if !plain || link.has_attribute("download") || link.origin() != page().location().origin().ok()? {
        return None;
    }
    match Route::read(&link.pathname(), &link.search()) {
        Route::Nowhere(_) => None,
        route => {
            event.prevent_default();
            Some(Msg::GoTo(route))
        }
    }
}

/// What a key of this name means that goes to this element.
fn focus(element: &Element, name: &str) -> Focus {
    let is_in = |css: &str| element.closest(css).is_ok_and(|around| around.is_some());
    match (element.id().as_str(), element.tag_name().as_str()) {
        (FIND_ELEMENT, _) => Focus::Find,
        (FIND_TEST_ELEMENT, _) => Focus::FindTest,
        (_, "INPUT" | "TEXTAREA" | "SELECT") => Focus::Field,
        // They scroll it.
        _ if name.starts_with("Arrow") && is_in(".log, pre") => Focus::Field,
        _ if is_in(".tests") => Focus::Tests,
        _ => Focus::Page,
    }
}

fn pressed(event: &Event) -> Option<Msg> {
    let pressed: &KeyboardEvent = event.dyn_ref()?;
    if pressed.ctrl_key() || pressed.meta_key() || pressed.alt_key() || pressed.is_composing() {
        return None;
    }
    let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
    let name = pressed.key();
    let focus = target.map_or(Focus::Page, |element| focus(&element, &name));
    let name = if name == "Enter" && pressed.shift_key() { format!("Shift+{name}") } else { name };
    let key = Key { name, focus };
    if keys::is_ours(&key) {
        event.prevent_default();
    }
    Some(Msg::Pressed(key))
}
