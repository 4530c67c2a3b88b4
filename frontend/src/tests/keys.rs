//! What the keys mean, and where.

use super::story::Story;
use crate::keys::{Focus, Key, SHORTCUTS, is_ours, msg_for_key};
use crate::model::Filter;
use crate::update::{Effect, Msg};

fn key(name: &str) -> Key {
    Key { name: name.to_owned(), focus: Focus::Page }
}

fn meaning(story: &Story, name: &str) -> Option<Msg> {
    msg_for_key(&story.model, &key(name))
}

#[test]
fn one_key_means_what_fits_the_page() {
    assert_eq!(meaning(&Story::at("/"), "r"), Some(Msg::WantRun { only: None }));
    assert_eq!(meaning(&Story::of_run_7(), "r"), Some(Msg::WantRerun { only: None }));
    assert_eq!(meaning(&Story::at("/"), "c"), None);
    assert_eq!(meaning(&Story::of_run_7(), "c"), Some(Msg::WantCancel));
    assert_eq!(meaning(&Story::of_run_7(), "w"), None);
    assert_eq!(meaning(&Story::of_run_7(), "F13"), None);
}

#[test]
fn typing_is_typing() {
    let typing = |name: &str| Key { name: name.to_owned(), focus: Focus::Field };
    let story = Story::of_run_7();
    assert_eq!(msg_for_key(&story.model, &typing("c")), None);
    assert!(msg_for_key(&story.model, &typing("Escape")).is_some());
    assert!(!is_ours(&typing("j")) && is_ours(&key("j")) && is_ours(&key("/")) && !is_ours(&key("Enter")));
}

#[test]
fn escape_goes_back_one_thing_at_a_time() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    story.happens(Msg::Search("mod".to_owned()));
    story.happens(Msg::ToggleHelp);
    let mut urls = Vec::new();
    for _ in 0..5 {
        story.happens(Msg::Pressed(key("Escape")));
        urls.push((
            story.model.help,
            story.model.run_page().map(|page| page.search.clone()),
            story.model.route.url(),
        ));
    }
    let at = |help, search: Option<&str>, url: &str| (help, search.map(str::to_owned), url.to_owned());
    assert_eq!(
        urls,
        [
            at(false, Some("mod"), "/runs/7/TestUnit.models"),
            at(false, Some(""), "/runs/7/TestUnit.models"),
            at(false, Some(""), "/runs/7"),
            at(false, None, "/"),
            at(false, None, "/"),
        ]
    );
}

#[test]
fn the_cursor_walks_the_tasks_as_they_are_shown() {
    let mut story = Story::is_red();
    let mut walked = Vec::new();
    for name in ["j", "j", "j", "j", "k"] {
        match story.happens(Msg::Pressed(key(name))) {
            [Effect::Still, Effect::Focus(id)] => walked.push(id.clone()),
            other => panic!("{other:?}"),
        }
    }
    let ids = [
        "task-TestUnit.models",
        "task-TestUnit.views",
        "task-TestWeb.login",
        "task-TestWeb.login",
        "task-TestUnit.views",
    ];
    assert_eq!(walked, ids);
    story.happens(Msg::SetFilter(Filter::NotPassed));
    assert_eq!(
        story.happens(Msg::MoveCursor(1)),
        [Effect::Still, Effect::Focus("task-TestUnit.models".to_owned())]
    );
}

#[test]
fn f_leads_to_the_first_failure() {
    let mut story = Story::is_red();
    story.happens(Msg::Pressed(key("f")));
    assert_eq!(story.model.route.url(), "/runs/7/TestUnit.models");
}

#[test]
fn what_was_found_is_walked_by_keys() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    let of = story.pane().of.clone().unwrap();
    story.happens(Msg::Output { of, at: 0, bytes: b"a\nhit\nb\nHIT\n".to_vec() });
    let filters = Some(Msg::SetFilter(Filter::NotPassed));
    assert_eq!(meaning(&story, "n"), filters, "as long as nothing is looked for");
    assert_eq!(meaning(&story, "/"), Some(Msg::WantFind));
    assert_eq!(meaning(&story, "l"), None);
    story.happens(Msg::Find("hit".to_owned()));
    for (name, line) in [("n", 4), ("n", 2), ("N", 4)] {
        story.happens(Msg::Pressed(key(name)));
        assert_eq!(story.pane().find.line(), Some(line), "{name}");
    }
    let in_field = |name: &str| Key { name: name.to_owned(), focus: Focus::Find };
    let means = |name: &str| msg_for_key(&story.model, &in_field(name));
    assert_eq!(means("Enter"), Some(Msg::FindNext(1)));
    assert_eq!(means("Shift+Enter"), Some(Msg::FindNext(-1)));
    assert_eq!((means("n"), means("Escape")), (None, Some(Msg::Find(String::new()))));
    story.happens(Msg::Pressed(key("l")));
    assert_eq!(story.model.route.url(), "/runs/7/TestUnit.models?attempt=1&line=4");
    assert_eq!(story.pane().line, Some(4));
}

#[test]
fn the_help_shows_every_key_of_its_page() {
    let mut story = Story::is_red();
    story.goes_to("/runs/7/TestUnit.models");
    story.happens(Msg::Pressed(key("?")));
    let html = story.html();
    for shortcut in SHORTCUTS.iter().filter(|shortcut| shortcut.place.includes(&story.model)) {
        assert!(html.contains(&format!("<dd>{}</dd>", shortcut.does)), "{}", shortcut.does);
    }
    assert!(!html.contains("run the pipeline"));
}
