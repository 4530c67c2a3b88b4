//! The one component: a message comes in, the model changes, effects are performed, the page is drawn.

use yew::prelude::*;

use crate::effects::Browser;
use crate::model::Model;
use crate::update::{self, Effect, Msg};
use crate::view;

pub(crate) struct App {
    model: Model,
    browser: Browser,
    /// What has to wait until the page is drawn, as it concerns what is on it.
    waiting: Vec<Effect>,
    send: Callback<Msg>,
}

impl Component for App {
    type Message = Msg;
    type Properties = ();

    fn create(ctx: &Context<App>) -> App {
        let link = ctx.link().clone();
        let browser = Browser::new(move |msgs| link.send_message_batch(msgs));
        let (model, effects) = update::init(browser.flags());
        let mut app = App { model, browser, waiting: Vec::new(), send: ctx.link().callback(|msg| msg) };
        app.perform(effects);
        app
    }

    fn update(&mut self, _: &Context<App>, msg: Msg) -> bool {
        self.model.now_ms = self.browser.now_ms();
        let effects = update::update(&mut self.model, msg);
        let still = effects.contains(&Effect::Still);
        self.perform(effects);
        !still
    }

    fn view(&self, _: &Context<App>) -> Html {
        view::view(&self.model, &self.send)
    }

    fn rendered(&mut self, _: &Context<App>, _: bool) {
        for effect in std::mem::take(&mut self.waiting) {
            self.browser.perform(effect);
        }
        self.browser.tick(update::ticking(&self.model));
        self.browser.entitle(view::title(&self.model), view::standing(&self.model));
    }
}

impl App {
    fn perform(&mut self, effects: Vec<Effect>) {
        let still = effects.contains(&Effect::Still);
        for effect in effects {
            if effect.is_about_what_is_drawn() && !still {
                self.waiting.push(effect);
            } else {
                self.browser.perform(effect);
            }
        }
    }
}
