//! Who answers where a boss and workers are expected: on this machine, and at the addresses in workers.toml.

use common::{Check, Health};
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use super::clock::Apart;
use super::{Options, Seen};
use crate::auth::Token;
use crate::boss::{Probe, WorkerAddress, WorkerClient, Workers};
use crate::local::SHARED_TOKEN;
use crate::open_command;

/// The tokens that a command of this user would try, in that order.
fn tokens(options: &Options) -> Vec<Token> {
    let own = Token::read(&options.data.join("token"));
    let shared = options.may_share.then(|| Token::read(Path::new(SHARED_TOKEN))).flatten();
    own.into_iter().chain(shared).collect()
}

pub(super) async fn boss(options: &Options) -> Seen {
    // Nobody else is shown the token.
    if let Some(noted) = open_command::address(&options.data)
        && let Some(token) = Token::read(&options.data.join("token"))
        && open_command::is_ours(&noted, &token).await
    {
        return Seen::of(Check::well("boss", format!("ours answers at {noted}")));
    }
    let usual = options.boss_at;
    Seen::of(match tokio::net::TcpStream::connect(usual).await {
        Err(_) => Check::well("boss", format!("none runs; {usual} is free for one")),
        Ok(_) => Check::wrong(
            "boss",
            format!("something that is not our boss listens at {usual}"),
            taken(usual, "the boss"),
        ),
    })
}

pub(super) async fn worker_here(options: &Options) -> Seen {
    let at = options.worker_at;
    let base = format!("http://{at}");
    // Where that file is broken, another check says so.
    let workers = Workers::new(None, &options.data).ok();
    let by_name = format!("http://localhost:{}", at.port());
    // A line in workers.toml counts for a worker on this machine, too.
    let listed = [&base, &by_name].into_iter().filter_map(|name| workers.as_ref()?.resolve(name).ok());
    let mut tokens: Vec<String> = listed.map(|worker| worker.token).collect();
    tokens.extend(self::tokens(options).iter().map(|token| token.as_str().to_owned()));
    // There may be none; who listens there is to be known all the same.
    tokens.push(String::new());
    let client = WorkerClient::new();
    for token in tokens {
        let worker = WorkerAddress { base: base.clone(), token };
        return match client.probe(&worker).await {
            Probe::OtherToken => continue,
            Probe::Ours => of_worker(&client, &worker, &format!("ours at {at}")).await,
            Probe::Nothing => Seen::of(Check::well("worker", format!("none runs; {at} is free for one"))),
            Probe::Other => Seen::of(Check::wrong(
                "worker",
                format!("something that is no worker listens at {at}"),
                taken(at, "the worker"),
            )),
        };
    }
    Seen::of(Check::wrong(
        "worker",
        format!("the worker at {at} does not take our token"),
        workers.map_or_else(|| "mend workers.toml first".to_owned(), |workers| workers.token_hint(&by_name)),
    ))
}

fn taken(at: SocketAddr, who: &str) -> String {
    let port = at.port();
    format!("find it: sudo ss -ltnp 'sport = :{port}'; stop it, or start {who} with --listen ADDRESS:PORT")
}

/// Each worker in workers.toml, all at once.
pub(super) async fn workers_elsewhere(options: &Options) -> Seen {
    let workers = match Workers::new(None, &options.data) {
        Ok(workers) => workers,
        Err(error) => return Seen::of(Check::wrong("workers", error.error, error.hint)),
    };
    let looks = workers.elsewhere().map(|base| super::in_time("worker", base, elsewhere(&workers, base)));
    let seen: Vec<Seen> = futures_util::future::join_all(looks).await;
    if seen.is_empty() {
        let file = options.data.join("workers.toml");
        return Seen::of(Check::well("workers", format!("{} names none elsewhere", file.display())));
    }
    Seen::all(seen)
}

async fn elsewhere(workers: &Workers, base: &str) -> Seen {
    let worker = match workers.resolve(base) {
        Ok(worker) => worker,
        Err(none) => return Seen::of(Check::wrong("worker", none.message, none.hint)),
    };
    let client = WorkerClient::new();
    match client.probe(&worker).await {
        Probe::Ours => of_worker(&client, &worker, base).await,
        Probe::OtherToken => Seen::of(Check::wrong(
            "worker",
            format!("{base} does not take the token that workers.toml has for it"),
            workers.token_hint(base),
        )),
        Probe::Nothing => Seen::of(Check::wrong(
            "worker",
            format!("nothing answers at {base}"),
            "start it there: bettertest --worker --listen ADDRESS:9009; is a firewall in between?",
        )),
        Probe::Other => Seen::of(Check::wrong(
            "worker",
            format!("what listens at {base} is no worker"),
            "mend its address in workers.toml",
        )),
    }
}

/// How one that takes our token is.
async fn of_worker(client: &WorkerClient, worker: &WorkerAddress, named: &str) -> Seen {
    let Some((health, date)) = client.health(worker).await else {
        return Seen::of(Check::wrong(
            "worker",
            format!("{named} does not say how it is"),
            "look at its log",
        ));
    };
    let mut seen = Seen::of(judged(&health, named));
    seen.has_worker = health.ok;
    let theirs = date.and_then(|date| httpdate::parse_http_date(&date).ok());
    seen.clocks.extend(theirs.map(|theirs| Apart::of(&worker.base, theirs, SystemTime::now())));
    seen
}

fn judged(health: &Health, named: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let Health { engine, slots, version, .. } = health;
    match &health.why {
        Some(why) => {
            let (why, hint) = why.split_once("\nhint: ").unwrap_or((why, "look at its log"));
            Check::wrong("worker", format!("{named} can run no steps: {why}"), hint)
        }
        None if version != ours => Check::warning(
            "worker",
            format!("{named} is version {version}, and this is {ours}"),
            "put the same bettertest there and restart it; runs that go on do so",
        ),
        None => Check::well("worker", format!("{named} ({engine}, {slots} at once)")),
    }
}
