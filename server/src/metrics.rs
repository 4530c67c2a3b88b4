//! What a server counts since it began, as Prometheus reads it. Every label is a word of a closed list, so that there
//! is a bounded number of series, whatever is run and however it is named.

use common::{Reason, StepEnd, Verdict};
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::path::Path;
use std::sync::atomic::AtomicU64;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a step that does nothing to one that takes its whole hour.
const SECONDS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

type Words = [(&'static str, &'static str); 2];

/// How many have ended, by outcome and reason.
#[derive(Clone, Default)]
pub(crate) struct Ends(Family<Words, Counter>);

impl Ends {
    pub(crate) fn count(&self, verdict: Verdict) {
        let reason = verdict.reason().map_or("none", Reason::word);
        self.0.get_or_create(&[("outcome", verdict.outcome().word()), ("reason", reason)]).inc();
    }
}

/// The ends of steps, and how long these took.
#[derive(Clone)]
pub(crate) struct StepEnds {
    ends: Ends,
    seconds: Histogram,
}

impl StepEnds {
    pub(crate) fn new() -> StepEnds {
        StepEnds { ends: Ends::default(), seconds: Histogram::new(SECONDS) }
    }

    pub(crate) fn count(&self, end: &StepEnd) {
        self.ends.count(end.verdict);
        self.seconds.observe(end.took_ms as f64 / 1000.0);
    }
}

/// One answer to `GET /metrics`.
pub(crate) struct Scrape(Registry);

impl Scrape {
    /// `part` is `boss` or `worker`.
    pub(crate) fn begin(part: &'static str) -> Scrape {
        let mut registry = Registry::with_prefix("bettertest");
        let build: Family<Words, Gauge> = Family::default();
        build.get_or_create(&[("part", part), ("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "Which bettertest this is", build);
        Scrape(registry)
    }

    pub(crate) fn ends(&mut self, name: &str, help: &str, ends: &Ends) {
        self.0.register(name, help, ends.0.clone());
    }

    pub(crate) fn step_ends(&mut self, ends: &StepEnds) {
        self.ends("steps_ended", "Steps that have ended, by outcome and reason", &ends.ends);
        self.0.register("step_seconds", "From a step's start to its end", ends.seconds.clone());
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(value as f64);
        self.0.register(name, help, gauge);
    }

    /// What is free on the disk of this folder for a user who is not root; left out where it cannot be asked.
    pub(crate) fn free_bytes(&mut self, folder: &Path) {
        match nix::sys::statvfs::statvfs(folder) {
            Ok(disk) => {
                let free_bytes = disk.blocks_available() * disk.fragment_size();
                self.gauge("disk_free_bytes", "Free on the disk of the data directory", free_bytes);
            }
            Err(error) => tracing::debug!("the disk of {} cannot be asked: {error}", folder.display()),
        }
    }

    pub(crate) fn text(self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("writing to a String does not fail");
        text
    }
}
