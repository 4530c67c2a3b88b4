//! How long a step has run, under this worker and those before it, whatever is done to the wall clock meanwhile.
//!
//! The clock that counts from the boot of this machine cannot be set, and a process that starts later reads the
//! same one. It stands still while the machine sleeps, and so do containers. After another boot it says nothing,
//! but no container is left then.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// A point in time that another process of the same boot can count from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) boot: String,
    pub(crate) since_boot: Duration,
}

impl Moment {
    pub(crate) fn now() -> io::Result<Moment> {
        // It never changes under a process.
        static BOOT: OnceLock<String> = OnceLock::new();
        let boot = match BOOT.get() {
            Some(boot) => boot.clone(),
            None => {
                let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
                BOOT.get_or_init(|| boot).clone()
            }
        };
        Ok(Moment { boot, since_boot: Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?) })
    }

    /// None if the machine was booted in between.
    fn until(&self, now: &Moment) -> Option<Duration> {
        (self.boot == now.boot).then(|| now.since_boot.saturating_sub(self.since_boot))
    }
}

/// Notes that the step of this folder starts now. Not synced: what it says is void after a loss of power.
pub(crate) fn note_start(step: &Path) -> io::Result<()> {
    let (now, path) =
        (serde_json::to_vec(&Moment::now()?).expect("a moment is words and numbers"), step.join("began"));
    match File::create_new(&path) {
        Ok(mut file) => file.write_all(&now),
        // What was noted before is better than half of what is noted now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let draft = step.join("began.draft");
            fs::write(&draft, &now)?;
            fs::rename(draft, path)
        }
        Err(error) => Err(error),
    }
}

/// How long a container has run that an earlier worker started. `told`: what its engine says, by the wall clock.
pub(crate) fn of_adopted(step: &Path, told: Duration, has_ended: bool) -> Duration {
    let noted = fs::read(step.join("began")).ok();
    let began: Option<Moment> = noted.and_then(|noted| serde_json::from_slice(&noted).ok());
    match Moment::now() {
        Ok(now) => age(began.as_ref(), &now, told, has_ended),
        Err(error) => {
            tracing::warn!("the clock of this machine cannot be read: {error}");
            told
        }
    }
}

/// What the engine tells is needed of a container that ended while nobody looked, which was before now.
pub(crate) fn age(began: Option<&Moment>, now: &Moment, told: Duration, has_ended: bool) -> Duration {
    match began.and_then(|began| began.until(now)) {
        Some(elapsed) if has_ended => told.min(elapsed),
        Some(elapsed) => elapsed,
        None => told,
    }
}
