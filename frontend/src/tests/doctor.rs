//! What is missing on the boss's machine, as the page shows it.

use common::Checkup;

use super::story::{Story, problem};
use crate::keys::{Focus, Key};
use crate::model::Live;
use crate::update::{Effect, Msg};
use crate::view::title;

fn checkup() -> Checkup {
    serde_json::from_str(include_str!("../../../common/wire/checkup.json")).unwrap()
}

fn pressed(name: &str) -> Msg {
    Msg::Pressed(Key { name: name.to_owned(), focus: Focus::Page })
}

#[test]
fn the_machine_is_looked_at_when_the_page_is_opened_and_when_somebody_asks() {
    let mut story = Story::is_red();
    assert!(story.happens(pressed("d")).contains(&Effect::FetchCheckup));
    assert_eq!((story.model.route.url().as_str(), story.model.live), ("/doctor", Live::Closed));
    assert!(story.html().contains("Looking at the boss's machine"));
    assert_eq!(story.happens(pressed("h")), [Effect::Still], "it is being looked at");
    story.happens(Msg::GotCheckup(Ok(checkup())));
    assert_eq!(story.happens(pressed("h")), [Effect::FetchCheckup]);
    story.happens(Msg::GotCheckup(Err(problem("the boss does not answer"))));
    assert!(story.html().contains("the boss does not answer"));
    story.happens(pressed("Escape"));
    assert_eq!(story.model.route.url(), "/");
    assert_eq!(story.happens(Msg::GotCheckup(Ok(checkup()))), [Effect::Still]);
}

#[test]
fn each_check_is_a_word_what_was_found_and_what_mends_it() {
    let mut story = Story::at("/doctor");
    story.happens(Msg::GotCheckup(Ok(checkup())));
    let html = story.html();
    for checkup in checkup().checks {
        let hint = checkup.hint.unwrap_or_default().replace('&', "&amp;");
        assert!(html.contains(&checkup.found) && html.contains(&hint), "{html}");
    }
    assert_eq!(html.matches("<span class=\"word\">well</span>").count(), 2);
    assert_eq!(
        story.html_from("<li class=\"check failed", "</li>"),
        r#"<li class="check failed">
<span aria-hidden="true" class="mark">
</span>
<span class="name">token</span>
<span class="word">wrong</span>
<span class="found">/var/lib/bettertest/token has mode 0644: who can read it can run commands on this machine</span>
<p class="mend">
<b>hint </b>
<code>chmod 600 /var/lib/bettertest/token</code>
</p>
</li>"#
    );
    assert_eq!(
        title(&story.model),
        "doctor: 1 of 4 checks found something wrong, with 1 warning · bettertest"
    );
}
