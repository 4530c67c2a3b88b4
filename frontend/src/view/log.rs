//! The output of an attempt: a window of rows in a space as high as all of them. Text is only ever text.

use common::Attempt;
use std::ops::Range;
use yew::prelude::*;

use super::parts;
use crate::ansi::{Colour, Line, Style};
use crate::effects::typed;
use crate::log::{LogMark, MarkKind, Row, cut};
use crate::model::{Model, Output, OutputOf, TaskPane};
use crate::route::{Part, Route, encode};
use crate::update::{FIND_ELEMENT, LOG_ELEMENT, Msg};

/// A hundred characters, by whose width the browser's columns are measured.
const PROBE: &str =
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

pub(crate) fn view(model: &Model, pane: &TaskPane, attempt: &Attempt, send: &Callback<Msg>) -> Html {
    let window = pane.log.window(&pane.seen, pane.follow);
    let rows =
        window.rows.clone().filter_map(|i| pane.log.row(i).map(|row| view_row(i, row, pane, attempt, send)));
    html! {
        <>
            { view_tools(model, pane, send) }
            <div class="log-frame">
                // A live region would read out every line that a test prints.
                <div id={LOG_ELEMENT} class={classes!("log", model.wrap.then_some("wrapped"))} role="log" aria-live="off"
                    aria-label="output" tabindex="0" onscroll={parts::on(send, Msg::LogMoved)}>
                    <div class="space" style={format!("height:{}px", window.total_px)}>
                        <div class="rows" style={format!("transform:translateY({}px)", window.top_px)}>{ for rows }</div>
                    </div>
                    <span id="log-probe" aria-hidden="true">{ PROBE }</span>
                </div>
                if !pane.follow {
                    <button class="to-end" onclick={parts::on(send, Msg::ToEnd)}>{ "Jump to end" }<kbd>{ "G" }</kbd></button>
                }
            </div>
        </>
    }
}

fn view_tools(model: &Model, pane: &TaskPane, send: &Callback<Msg>) -> Html {
    let state = match &pane.output {
        Output::Whole if pane.log.lines() == 0 => "It printed nothing.".to_owned(),
        Output::Whole => parts::count(pane.log.lines(), "line"),
        Output::Streaming | Output::Lost { tries: 0 } if pane.log.lines() == 0 => "No output yet.".to_owned(),
        Output::Streaming | Output::Lost { tries: 0 } => {
            format!("{} so far", parts::count(pane.log.lines(), "line"))
        }
        Output::Lost { .. } => format!("{}, reconnecting…", parts::count(pane.log.lines(), "line")),
        Output::Failed(_) => String::new(),
    };
    html! {
        <>
            <div class="tools">
                <span class="extent">{ state }</span>
                { view_find(pane, send) }
                <button class="quiet" aria-pressed={model.wrap.to_string()} onclick={parts::on(send, Msg::ToggleWrap)}>
                    { "Wrap" }<kbd>{ "w" }</kbd>
                </button>
                if model.can_copy {
                    <button class="quiet" onclick={parts::on(send, Msg::CopyLog)}>
                        { if pane.copied { "Copied" } else { "Copy" } }<kbd>{ "y" }</kbd>
                    </button>
                }
                if let Some(of) = &pane.of {
                    <a class="button quiet" href={raw_url(of)} download={format!("run-{}-{}.log", of.run, of.task)}>{ "Raw" }</a>
                }
            </div>
            if let Output::Failed(problem) = &pane.output {
                { parts::problem(problem) }
            }
            if pane.log.forgotten > 0 {
                <p class="hole">
                    { format!("The first {} are not kept on this page; Raw has all of them.",
                        parts::count(pane.log.forgotten, "line")) }
                </p>
            }
        </>
    }
}

fn view_find(pane: &TaskPane, send: &Callback<Msg>) -> Html {
    let place = match pane.find.place() {
        _ if pane.find.wanted.is_empty() => None,
        (Some(at), count) => {
            Some(format!("{} of {}", parts::grouped(at as u64), parts::count(count, "line")))
        }
        (None, 0) => Some("not found".to_owned()),
        (None, count) => Some(parts::count(count, "line")),
    };
    html! {
        <div class="find" role="search" aria-label="output">
            <input id={FIND_ELEMENT} type="search" placeholder="Search output  /" aria-label="search the output"
                autocomplete="off" spellcheck="false" value={pane.find.wanted.clone()}
                oninput={send.reform(|event: InputEvent| Msg::Find(typed(&event)))} />
            <span class="extent" role="status">{ place }</span>
            if pane.find.place().1 > 0 {
                <button class="quiet" aria-label="previous line that was found" title="previous"
                    onclick={parts::on(send, Msg::FindNext(-1))}>{ "↑" }</button>
                <button class="quiet" aria-label="next line that was found" title="next"
                    onclick={parts::on(send, Msg::FindNext(1))}>{ "↓" }</button>
            }
        </div>
    }
}

fn raw_url(of: &OutputOf) -> String {
    format!("/api/runs/{}/tasks/{}/output?attempt={}", of.run, encode(&of.task.to_string()), of.attempt)
}

fn view_row(key: usize, row: Row<'_>, pane: &TaskPane, attempt: &Attempt, send: &Callback<Msg>) -> Html {
    match row {
        Row::Mark(mark) => html! { <div {key} class="row between">{ words_of(mark, attempt) }</div> },
        Row::Line { number, line, folded } => {
            let shown = if folded { cut(line).len() } else { line.text.len() };
            let found = pane.find.places_in(&line.text[..shown]);
            let named = pane.line == Some(number);
            let in_front = pane.find.line() == Some(number);
            html! {
                <div {key} class={classes!("row", named.then_some("named"), in_front.then_some("in-front"))}>
                    { view_number(number, named, pane.of.as_ref()) }
                    <span class="text">
                        { view_text(line, shown, &found) }
                        if folded {
                            <button class="fold" onclick={parts::on(send, Msg::Unfold(number))}>
                                { format!("show {} more", parts::size((line.text.len() - shown) as u64)) }
                            </button>
                        } else if line.left_out_bytes > 0 {
                            <span class="hole">{ format!("{} more in Raw", parts::size(line.left_out_bytes)) }</span>
                        }
                    </span>
                </div>
            }
        }
    }
}

/// A link to the line. There are too many of them to be walked through by keys; for these there is the search.
fn view_number(number: usize, named: bool, of: Option<&OutputOf>) -> Html {
    let url = of.map(|of| {
        let (run, task) = (of.run, of.task.clone());
        Route::Task { run, task, attempt: Some(of.attempt), part: Part::Line(number) }.url()
    });
    html! { <a class="number" tabindex="-1" href={url} aria-current={named.then_some("true")}>{ number }</a> }
}

/// The first `shown` bytes of a line, with what was found in it marked.
pub(super) fn view_text(line: &Line, shown: usize, found: &[Range<usize>]) -> Html {
    let mut begin = 0;
    let pieces = line.pieces().filter_map(|(piece, style)| {
        let end = begin + piece.len();
        let piece = &piece[..piece.len().min(shown.saturating_sub(begin))];
        let at = std::mem::replace(&mut begin, end);
        (!piece.is_empty()).then(|| view_found(piece, style, at, found))
    });
    pieces.collect()
}

/// A piece that begins at `at` in its line.
fn view_found(piece: &str, style: Style, at: usize, found: &[Range<usize>]) -> Html {
    let mut told = 0;
    let mut parts = Vec::new();
    for place in found {
        let begin = place.start.saturating_sub(at).clamp(told, piece.len());
        let end = place.end.saturating_sub(at).clamp(told, piece.len());
        if begin < end {
            parts.push(view_piece(&piece[told..begin], style));
            parts.push(html! { <mark>{ &piece[begin..end] }</mark> });
            told = end;
        }
    }
    parts.push(view_piece(&piece[told..], style));
    parts.into_iter().collect()
}

fn words_of(mark: &LogMark, attempt: &Attempt) -> String {
    match &mark.kind {
        MarkKind::Dropped(bytes) => {
            format!("{} left out here: the output was longer than its cap", parts::size(*bytes))
        }
        MarkKind::Gap(Some(bytes)) => format!("{} were lost here", parts::size(*bytes)),
        MarkKind::Gap(None) => "some output was lost here".to_owned(),
        MarkKind::Step(id) => match attempt.steps.iter().position(|step| step.id == *id) {
            Some(i) => format!("{}  {}", i + 1, attempt.steps[i].spec.command.for_show()),
            None => "another step".to_owned(),
        },
    }
}

fn view_piece(piece: &str, style: Style) -> Html {
    if style == Style::default() {
        return html! { <>{ piece }</> };
    }
    let (ink, paper) = if style.reverse { (style.paper, style.ink) } else { (style.ink, style.paper) };
    let mut class = Classes::new();
    for (is, name) in [
        (style.bold, "b"),
        (style.dim, "d"),
        (style.italic, "i"),
        (style.underline, "u"),
        (style.strike, "s"),
        (style.reverse && ink == Colour::Plain, "ink-of-paper"),
        (style.reverse && paper == Colour::Plain, "paper-of-ink"),
    ] {
        class.extend(is.then_some(name));
    }
    let mut css = String::new();
    match ink {
        Colour::Plain => {}
        Colour::Named(n) => class.push(format!("f{n}")),
        Colour::Rgb(r, g, b) if paper == Colour::Plain && !style.reverse => css.push_str(&readable(r, g, b)),
        Colour::Rgb(r, g, b) => css.push_str(&format!("color:#{r:02x}{g:02x}{b:02x};")),
    }
    match paper {
        Colour::Plain => {}
        Colour::Named(n) => class.push(format!("g{n}")),
        Colour::Rgb(r, g, b) => css.push_str(&format!("background:#{r:02x}{g:02x}{b:02x};")),
    }
    html! { <span {class} style={(!css.is_empty()).then_some(css)}>{ piece }</span> }
}

/// A colour chosen for somebody's dark terminal, or light one: made darker on light paper and lighter on dark,
/// as far as it takes to be read.
fn readable(r: u8, g: u8, b: u8) -> String {
    let hex = |[r, g, b]: [f32; 3]| format!("#{:02x}{:02x}{:02x}", r as u8, g as u8, b as u8);
    let colour = [r, g, b].map(f32::from);
    let (mut on_light, mut on_dark) = (colour, colour);
    while luminance(on_light) > 0.18 {
        on_light = on_light.map(|part| part * 0.92);
    }
    while luminance(on_dark) < 0.20 {
        on_dark = on_dark.map(|part| part + (255.0 - part) * 0.08);
    }
    format!("color:light-dark({},{});", hex(on_light), hex(on_dark))
}

/// Relative luminance as WCAG has it.
fn luminance([r, g, b]: [f32; 3]) -> f32 {
    let linear = |part: f32| {
        let part = part / 255.0;
        if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}
