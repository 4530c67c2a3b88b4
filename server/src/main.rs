//! `bettertest`: runs a project's tests in containers, and shows the verdict live.

mod auth;
mod boss;
mod data_dir;
mod error;
mod http;
mod limits;
mod worker;

fn main() {}
