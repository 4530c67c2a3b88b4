//! The whole product, from outside: real processes, real HTTP, real Python, real disk. The engine is the fake one
//! where containers are not the point, and docker where they are.

mod access;
mod assets;
mod backup;
mod bad_input;
mod bad_pipedefs;
mod boss_dies;
mod boss_disk;
mod browser;
mod ci;
mod codes;
mod command;
mod disk;
mod doctor;
mod forked;
mod history;
mod looks;
mod metrics;
mod network;
mod odd_workers;
mod openapi;
mod output;
mod page;
mod readers;
mod replayed;
mod rerun;
mod runs;
mod show;
mod source;
mod together;
mod torrent;
mod upgrade;
mod wire;
mod words;
mod worker_dies;
mod workers;
