//! The pages as HTML.

use super::story::Story;
use crate::update::Msg;

#[test]
fn print() {
    let s = Story::is_red();
    println!("A\n{}", s.html_from("<main", "</main>"));
    let mut s = Story::is_red();
    s.goes_to("/runs/7/TestUnit.models");
    let of = s.pane().of.clone().unwrap();
    s.happens(Msg::Output { of, at: 0, bytes: b"ok\n\x1b[1;31mE <b>\x1b[0m 1 != 2\n\x1b[38;5;226;7mx\x1b[0m\x1b[38;2;255;255;0my".to_vec() });
    println!("B\n{}", s.html_from("class=\"output", "</section>"));
    println!("C\n{}", s.html_from("<header class=\"top", "</header>"));
}
