//! Is this machine's clock right, as far as others can tell? Times in the history, sessions, and the deadlines by
//! which workers remove what is left of others hang on it.

use common::Check;
use std::time::{Duration, SystemTime};

/// Nobody notices that much, and a `Date` of HTTP has whole seconds.
const CLOSE: Duration = Duration::from_secs(5);

/// Containers that are 10 min past their deadline are removed by any worker: half of that is too much.
const FAR: Duration = Duration::from_secs(300);

/// In seconds since 1970: 2026 begins. No clock that shows less is right.
const BEGINNING_S: u64 = 1_767_225_600;

const MEND: &str = "sudo timedatectl set-ntp true, on the machine whose clock is wrong";

/// Another's clock, against ours.
pub(super) struct Apart {
    whose: String,
    by: Duration,
    is_ahead: bool,
}

impl Apart {
    pub(super) fn of(whose: &str, theirs: SystemTime, ours: SystemTime) -> Apart {
        let (by, is_ahead) = match theirs.duration_since(ours) {
            Ok(ahead) => (ahead, true),
            Err(behind) => (behind.duration(), false),
        };
        Apart { whose: whose.to_owned(), by, is_ahead }
    }

    fn words(&self) -> String {
        let (by, where_to) = (self.by.as_secs(), if self.is_ahead { "ahead of" } else { "behind" });
        format!("the clock of {} is {by} s {where_to} ours", self.whose)
    }
}

pub(super) fn check(now: SystemTime, others: &[Apart]) -> Check {
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING_S) {
        return Check::wrong("clock", "the clock of this machine shows a time before 2026", MEND);
    }
    match others.iter().max_by_key(|apart| apart.by) {
        None => Check::well("clock", "plausible; there is no other to compare it with"),
        Some(apart) if apart.by > FAR => Check::wrong("clock", apart.words(), MEND),
        Some(apart) if apart.by > CLOSE => Check::warning("clock", apart.words(), MEND),
        Some(_) => {
            let names: Vec<&str> = others.iter().map(|apart| apart.whose.as_str()).collect();
            Check::well("clock", format!("the same as that of {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::CheckState;

    #[test]
    fn clocks_that_differ() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING_S + 1_000_000);
        let s = Duration::from_secs;
        assert_eq!(check(now, &[]).state, CheckState::Well);
        assert_eq!(check(now - s(2_000_000), &[]).state, CheckState::Wrong);
        let others = |ahead| vec![Apart::of("docker", now, now), Apart::of("big", now + s(ahead), now)];
        assert_eq!(check(now, &others(1)).found, "the same as that of docker, big");
        assert_eq!(check(now, &others(60)).found, "the clock of big is 60 s ahead of ours");
        assert_eq!(check(now, &others(60)).state, CheckState::Warning);
        assert_eq!(check(now, &others(301)).state, CheckState::Wrong);
        let behind = [Apart::of("big", now - s(400), now)];
        assert_eq!(check(now, &behind).found, "the clock of big is 400 s behind ours");
    }
}
