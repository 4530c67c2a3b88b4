//! How long Docker is waited for, call by call. Each wait for it ends; what then becomes of the step is decided
//! where the call is made. Tests cannot wait as long as people can, and bring their own.

use std::time::Duration;

use crate::limits;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// For an answer at all.
    pub(crate) ping: Duration,
    /// For calls that only look.
    pub(crate) look: Duration,
    /// That change something.
    pub(crate) change: Duration,
    /// That start a container.
    pub(crate) start: Duration,
    /// For an image that is not here.
    pub(crate) pull: Duration,
    /// Docker may be gone so long in the middle of a step.
    pub(crate) away: Duration,
    /// After so long without news of a container it is looked at.
    pub(crate) silence: Duration,
    /// What an ended container printed has to arrive with no longer pause than this.
    pub(crate) last_output: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            ping: limits::DOCKER_PING,
            look: limits::DOCKER_LOOK,
            change: limits::DOCKER_CHANGE,
            start: limits::DOCKER_START,
            pull: limits::PULL,
            away: limits::ENGINE_AWAY,
            silence: limits::DOCKER_SILENCE,
            last_output: limits::LAST_OUTPUT,
        }
    }
}
