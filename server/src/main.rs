//! `bettertest`: runs a project's tests in containers, and shows the verdict live.

mod archive;
mod auth;
mod backup_command;
mod boss;
mod cli;
mod columns;
mod data_dir;
mod doctor;
mod error;
mod extract;
mod http;
mod init;
mod joined;
mod limits;
mod local;
mod mcp;
mod metrics;
mod only_failed;
mod open_command;
mod openapi;
mod packet_text;
mod report;
mod rerun_command;
mod run_command;
mod say;
mod select;
mod show_command;
mod signals;
mod slice;
mod source;
mod terminal;
#[cfg(test)]
mod tests;
mod tests_text;
mod watch;
mod worker;

use futures_util::FutureExt as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command, DoctorArgs, Serve};
use crate::data_dir::DataDir;
use crate::error::SetupError;

/// The set-up is wrong; nothing has run.
const EXIT_SETUP: u8 = 2;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().is_some_and(|word| word == worker::NATIVE_LAUNCHER) {
        return launcher(&words.next().unwrap_or_default());
    }
    let done = cli::parse(std::env::args_os()).and_then(|parsed| match parsed {
        Ok(cli) => execute(cli),
        Err(text) => {
            say::out(&text);
            Ok(0)
        }
    });
    ExitCode::from(done.unwrap_or_else(|error| {
        say::refusal(&error);
        EXIT_SETUP
    }))
}

/// What a worker starts for its native engine: before there is any thread, as it forks.
fn launcher(capabilities: &str) -> ExitCode {
    match worker::launch(capabilities) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::refusal(&SetupError::new(why, "only a worker starts this"));
            ExitCode::from(EXIT_SETUP)
        }
    }
}

fn execute(cli: Cli) -> Result<u8, SetupError> {
    // A command that people watch says only what matters to them; a server's log says more.
    let level = if cli.command.is_some() { LevelFilter::WARN } else { LevelFilter::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        SetupError::new(
            format!("threads cannot be started: {error}"),
            "is a limit of this user reached? see ulimit -u",
        )
    })?;
    let done = runtime.block_on(dispatch(cli));
    // What still blocks a thread, such as a read that nobody waits for, must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn dispatch(cli: Cli) -> Result<u8, SetupError> {
    match cli.command {
        Some(Command::Run(args)) => run_command::run(args).await,
        Some(Command::Rerun(args)) => rerun_command::rerun(args).await,
        Some(Command::Show(args)) => show_command::show(args).await,
        Some(Command::Mcp(args)) => mcp::serve(args).await,
        Some(Command::Init(args)) => {
            say::out(&init::init(&args)?);
            Ok(0)
        }
        Some(Command::Open(args)) => {
            let data = args.data_dir.map_or_else(DataDir::default_path, Ok)?;
            let link = open_command::link(&data).await?;
            say::out(&format!("{link}\n"));
            Ok(0)
        }
        Some(Command::Doctor(args)) => doctor(args).await,
        Some(Command::Completions { shell }) => {
            say::out(&cli::completions(shell));
            Ok(0)
        }
        Some(Command::Man { command }) => {
            say::out(&cli::manual(command.as_deref()));
            Ok(0)
        }
        Some(Command::Backup(args)) => {
            say::out(&backup_command::backup(args.file, open_data(args.data_dir)?).await?);
            Ok(0)
        }
        Some(Command::Restore(args)) => {
            say::out(&backup_command::restore(args.file, open_data(args.data_dir)?).await?);
            Ok(0)
        }
        None if cli.serve.worker => worker(cli.serve).await.map(|()| 0),
        None => match cli.serve.pipedef.clone() {
            Some(pipedef) => boss(cli.serve, pipedef).await.map(|()| 0),
            None => Err(SetupError::new(
                "nothing to do: neither a command nor --boss nor --worker was asked for",
                "bettertest run, in a folder with .bettertest/pipedef.py, or bettertest --help",
            )),
        },
    }
}

fn open_data(path: Option<std::path::PathBuf>) -> Result<DataDir, SetupError> {
    match path {
        Some(path) => DataDir::open(&path),
        None => DataDir::open(&DataDir::default_path()?),
    }
}

/// The exit code says whether something is wrong.
async fn doctor(args: DoctorArgs) -> Result<u8, SetupError> {
    let may_share = args.data_dir.is_none();
    let data = match args.data_dir {
        Some(path) => std::path::absolute(&path).map_err(|error| data_dir::unusable(&path, &error))?,
        None => DataDir::default_path()?,
    };
    let checkup = doctor::examine(&doctor::Options::new(data, may_share, args.docker_host)).await;
    if args.json {
        say::json(&serde_json::to_string(&checkup).expect("a checkup is strings"));
    } else {
        say::out(&doctor::text(&checkup, args.color.paint()));
    }
    Ok(if checkup.ok { 0 } else { EXIT_SETUP })
}

async fn worker(serve: Serve) -> Result<(), SetupError> {
    let told = signals::told_to_stop()?;
    let data = open_data(serve.data_dir)?;
    tokio::spawn({
        // Docker may be slow, or not there: nobody waits for this.
        let data = data.clone();
        async move { local::sweep_abandoned(&data).await }
    });
    let options = worker::Options {
        listen: serve.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9009))),
        slots: serve.slots,
        engine: serve.engine,
        docker_host: serve.docker_host,
        data,
        max_output_bytes: serve.max_output_bytes,
        spool_bytes: serve.spool_bytes,
        image_cache_bytes: serve.image_cache_bytes,
        source_cache_bytes: serve.source_cache_bytes,
        build_cache_bytes: serve.build_cache_bytes,
        allow_cap: serve.allow_cap,
    };
    worker::serve(options, told, say::out).await
}

async fn boss(serve: Serve, pipedef: std::path::PathBuf) -> Result<(), SetupError> {
    let told = signals::Signals::listen()?;
    let pipedef = std::path::absolute(&pipedef).map_err(|error| {
        SetupError::new(format!("{} cannot be used: {error}", pipedef.display()), "name a Python file")
    })?;
    if pipedef.to_str().is_none() {
        return Err(SetupError::new(
            format!("{} is no UTF-8", pipedef.display()),
            "give that file or its folder another name",
        ));
    }
    let data = open_data(serve.data_dir)?;
    let at = doctor::Options::new(data.path().to_owned(), false, None);
    let keep = boss::Keep::of_a_boss();
    let keep = boss::Keep {
        runs: serve.keep_runs.unwrap_or(keep.runs),
        age: serve.keep_days.map_or(keep.age, |days| Duration::from_secs(days * 24 * 3600)),
        bytes: serve.keep_bytes.unwrap_or(keep.bytes),
    };
    let options = boss::Options {
        pipedef,
        listen: serve.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9001))),
        public_urls: serve.public_url,
        data,
        examine: Arc::new(move || {
            let at = at.clone();
            async move { doctor::examine(&at).await }.boxed()
        }),
        keep,
    };
    boss::serve(options, told, |link| {
        say::out(&format!("the page: {link}\n(opens once; `bettertest open` prints a new link)\n"));
    })
    .await
}
