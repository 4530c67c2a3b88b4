//! Whole-system stories, and what concerns more than one module.

mod descriptor;
mod engines;
mod rig;
mod store;
