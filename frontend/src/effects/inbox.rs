//! What the streams say, kept until the browser draws its next frame and then handed over together: a thousand
//! events cost one drawing of the page.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::page;
use crate::update::Msg;

/// As much output as is parsed between two frames without anybody noticing.
const MOST_BYTES: usize = 256 * 1024;
/// Where no frame is drawn, because the tab is out of sight.
const FRAME_MS: i32 = 250;

pub(super) struct Inbox {
    send: Box<dyn Fn(Vec<Msg>)>,
    waiting: RefCell<Vec<Msg>>,
    bytes: Cell<usize>,
    frame_asked: Cell<bool>,
}

impl Inbox {
    pub(super) fn new(send: impl Fn(Vec<Msg>) + 'static) -> Inbox {
        Inbox {
            send: Box::new(send),
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            frame_asked: Cell::new(false),
        }
    }

    /// At once.
    pub(super) fn send(&self, msg: Msg) {
        (self.send)(vec![msg]);
    }

    /// With the next frame.
    pub(super) fn push(self: &Rc<Inbox>, msg: Msg) {
        if let Msg::Output { bytes, .. } = &msg {
            self.bytes.set(self.bytes.get() + bytes.len());
        }
        self.waiting.borrow_mut().push(msg);
        if !self.frame_asked.replace(true) {
            let inbox = self.clone();
            spawn_local(async move {
                next_frame().await;
                inbox.frame_asked.set(false);
                inbox.bytes.set(0);
                let waiting = inbox.waiting.take();
                (inbox.send)(waiting);
            });
        }
    }

    /// Waits while there is more output than one frame can take: a fast stream is read more slowly.
    pub(super) async fn room(&self) {
        while self.bytes.get() >= MOST_BYTES {
            next_frame().await;
        }
    }

    pub(super) fn forget_feed(&self) {
        let of_feed = |msg: &Msg| {
            matches!(
                msg,
                Msg::FeedOpened
                    | Msg::FeedLost { .. }
                    | Msg::FeedEnded
                    | Msg::Event { .. }
                    | Msg::RunChanged(_)
            )
        };
        self.waiting.borrow_mut().retain(|msg| !of_feed(msg));
    }
}

async fn next_frame() {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        let page = page();
        // One of the two always comes; the second to come finds the promise kept already.
        let _ = page.request_animation_frame(&resolve);
        let _ = page.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, FRAME_MS);
    });
    // It is never broken.
    let _ = JsFuture::from(promise).await;
}
