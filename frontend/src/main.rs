//! The page of bettertest's boss. Elm's architecture: `update` and `view` are pure, `effects` knows the browser.

mod ansi;
mod app;
mod effects;
mod find;
mod keys;
mod log;
mod model;
mod route;
mod test_list;
mod update;
mod view;

#[cfg(test)]
mod tests;

fn main() {
    effects::mount();
}
