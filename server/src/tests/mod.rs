//! Whole-system stories, and what concerns more than one module.

mod descriptor;
mod store;
