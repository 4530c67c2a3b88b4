//! Whole-system stories, and what concerns more than one module.

mod auto;
mod builds;
mod crash;
mod damage;
mod descriptor;
mod dockerd;
mod doctor;
mod engines;
mod junit;
mod model;
mod native;
mod openapi;
mod queue;
mod races;
mod rebuild_on;
mod records;
mod results;
mod rig;
mod sources;
mod spool;
mod store;
mod tidy;
mod worker;
