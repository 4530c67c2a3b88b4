//! `bettertest doctor`: what is missing here, and the command that mends it. Everything is asked at once and nothing is
//! waited for long: who does not answer is what is wrong. A look changes nothing.

mod cgroups;
mod clock;
mod docker;
mod here;
mod places;

use common::{Check, CheckState, Checkup};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::limits;
use crate::terminal::{Paint, plain};

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The data directory; it does not have to exist.
    pub(crate) data: PathBuf,
    /// A worker of root's may share its token, as where no data directory is named.
    pub(crate) may_share: bool,
    pub(crate) docker_host: Option<String>,
    /// Where a boss and a worker listen unless they are told otherwise.
    pub(crate) boss_at: SocketAddr,
    pub(crate) worker_at: SocketAddr,
}

impl Options {
    pub(crate) fn new(data: PathBuf, may_share: bool, docker_host: Option<String>) -> Options {
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Options { data, may_share, docker_host, boss_at: here(9001), worker_at: here(9009) }
    }
}

/// What one look has found.
#[derive(Default)]
struct Seen {
    checks: Vec<Check>,
    clocks: Vec<clock::Apart>,
    /// A worker is there that runs steps for us.
    has_worker: bool,
}

impl Seen {
    fn of(check: Check) -> Seen {
        Seen { checks: vec![check], ..Seen::default() }
    }

    fn all(parts: impl IntoIterator<Item = Seen>) -> Seen {
        let mut all = Seen::default();
        for part in parts {
            all.checks.extend(part.checks);
            all.clocks.extend(part.clocks);
            all.has_worker |= part.has_worker;
        }
        all
    }
}

/// Looks at everything at once.
pub(crate) async fn examine(options: &Options) -> Checkup {
    let (docker, python, disk, token, boss, here, elsewhere) = tokio::join!(
        docker::look(options.docker_host.as_deref()),
        in_time("python", "python3", here::python()),
        on_disk("disk", options, here::disk),
        on_disk("token", options, here::token),
        in_time("boss", "what listens where a boss would", places::boss(options)),
        in_time("worker", "what listens where a worker would", places::worker_here(options)),
        places::workers_elsewhere(options),
    );
    let workers = Seen::all([here, elsewhere]);
    let docker = Seen::all([docker, cgroups::look(options.docker_host.as_deref())]);
    let docker = if workers.has_worker { spared(docker) } else { docker };
    let mut all = Seen::all([docker, python, disk, token, boss, workers]);
    all.checks.push(clock::check(SystemTime::now(), &all.clocks));
    Checkup::of(all.checks)
}

/// `who` does not have to answer: that is what was found, then.
async fn in_time(check: &str, who: &str, look: impl Future<Output = Seen>) -> Seen {
    tokio::time::timeout(limits::DOCTOR, look).await.unwrap_or_else(|_| {
        let seconds = limits::DOCTOR.as_secs();
        Seen::of(Check::wrong(
            check,
            format!("{who} does not answer within {seconds} s"),
            "look at how busy that machine is, and try again",
        ))
    })
}

/// A disk that hangs holds up its own thread only.
async fn on_disk(check: &'static str, options: &Options, look: fn(&Path) -> Check) -> Seen {
    let data = options.data.clone();
    let looked = async move {
        match tokio::task::spawn_blocking(move || look(&data)).await {
            Ok(found) => Seen::of(found),
            Err(error) => {
                Seen::of(Check::wrong(check, format!("it cannot be told: {error}"), "please report this"))
            }
        }
    };
    in_time(check, "the disk of the data directory", looked).await
}

/// Where a worker runs our steps, a Docker that cannot be used here is no hindrance.
fn spared(mut docker: Seen) -> Seen {
    for check in &mut docker.checks {
        if check.state == CheckState::Wrong {
            check.state = CheckState::Warning;
            check.found.push_str(" (a worker runs steps nevertheless)");
        }
    }
    docker
}

/// For people.
pub(crate) fn text(checkup: &Checkup, paint: Paint) -> String {
    let mut text = String::new();
    for Check { check, state, found, hint } in &checkup.checks {
        let (mark, colour) = match state {
            CheckState::Well => ("✓", "32"),
            CheckState::Warning => ("!", "33"),
            CheckState::Wrong => ("✗", "31"),
        };
        // Some of it others have said.
        let line = format!("{} {}", paint.sgr(colour, mark), format_args!("{check:<8} {}", plain(found)));
        text.push_str(&format!("{line}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("{:11}{}\n", "", paint.sgr("2", &format!("hint: {}", plain(hint)))));
        }
    }
    text + &format!("{}\n", paint.sgr("1", &checkup.headline))
}
