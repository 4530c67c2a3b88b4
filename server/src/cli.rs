//! The command line: what can be asked of this binary, and its defaults.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::SetupError;
use crate::terminal::{self, Paint};

/// Runs a project's tests in containers, in parallel, and shows the verdict live.
///
/// `bettertest run` runs the pipedef of this folder here in the terminal; `--boss` serves the page; `--worker`
/// runs the steps that bosses send to it.
#[derive(Debug, Parser)]
#[command(
    name = "bettertest",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_long_help = EXAMPLES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

const EXAMPLES: &str = "\
Examples:
  bettertest init                                      write what runs the tests of this folder
  bettertest run                                       run the tests of this folder
  bettertest --worker                                  run steps for a boss on this machine
  bettertest --worker --listen 10.0.0.7:9009           ... and for one elsewhere
  bettertest --boss --pipedef .bettertest/pipedef.py   serve the page
  bettertest doctor                                    what is missing here

`bettertest COMMAND --help` has examples of each command.";

const INIT_EXAMPLES: &str = "\
Examples:
  bettertest init            the project in this folder
  bettertest init ../shop    in another one
  bettertest init --agents   and tell agents of it, in AGENTS.md";

const RUN_EXAMPLES: &str = "\
Examples:
  bettertest run                                the pipedef of this folder
  bettertest run ../shop                        that of another folder
  bettertest run --task TestUnit.models         one task
  bettertest run --only-failed                  what did not pass, on the pipedef and images of now
  bettertest run --fail-fast                    to the first failure, and no further
  bettertest run --stage TestUnit --json        the events of a stage's tasks as JSON lines
  bettertest run --worker http://10.0.0.7:9009  on that worker, whatever the pipedef says";

const RERUN_EXAMPLES: &str = "\
Examples:
  bettertest rerun                 what did not pass in the last run of this folder
  bettertest rerun 7               in run 7
  bettertest rerun --task models   of that, one task
  bettertest rerun --failed-tests  of that, the tests that had failed
  bettertest rerun last ../shop    in the last run of another folder";

const SHOW_EXAMPLES: &str = "\
Examples:
  bettertest show                                      what failed in the last run of this folder, and why
  bettertest show 7 models                             of run 7, one task
  bettertest show last models --tail 50                the end of what it printed
  bettertest show last models --grep 'Error|panicked'  the lines of it that match
  bettertest show last models --tests                  how each of its tests ended
  bettertest show last models --artifacts --into out   the files that it kept, written into the folder out
  bettertest show --test test_reads                    one test of any task, and how it came out before
  bettertest show --url http://127.0.0.1:9001 --json   of a boss, for machines";

const MCP_EXAMPLES: &str = "\
Examples:
  bettertest mcp           the project in the folder in which the agent starts it
  bettertest mcp ../shop   another one

In the settings of an agent:
  {\"mcpServers\": {\"bettertest\": {\"command\": \"bettertest\", \"args\": [\"mcp\"]}}}";

const OPEN_EXAMPLES: &str = "\
Examples:
  bettertest open                                 of the boss that this user runs
  sudo bettertest open                            of the one that root runs
  bettertest open --data-dir /var/lib/bettertest  of the one with that data directory";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  bettertest doctor
  bettertest doctor --json                                 for machines
  bettertest doctor --docker-host http://127.0.0.1:2375    with another Docker
  sudo bettertest doctor --data-dir /var/lib/bettertest    for a boss and worker of root's";

const BACKUP_EXAMPLES: &str = "\
Examples:
  bettertest backup history.tar
  sudo bettertest backup /srv/history.tar --data-dir /var/lib/bettertest    that of root's boss";

const RESTORE_EXAMPLES: &str = "\
Examples:
  bettertest restore history.tar --data-dir ~/elsewhere";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  bettertest completions bash > ~/.local/share/bash-completion/completions/bettertest
  bettertest completions zsh > /usr/local/share/zsh/site-functions/_bettertest
  bettertest completions fish > ~/.config/fish/completions/bettertest.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  bettertest man > bettertest.1 && man ./bettertest.1
  bettertest man run > bettertest-run.1";

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Run steps in containers (HTTP API, by default on 127.0.0.1:9009)
    #[arg(long, conflicts_with = "boss")]
    pub(crate) worker: bool,
    /// Coordinate runs and serve the page (by default on 127.0.0.1:9001)
    #[arg(long, requires = "pipedef")]
    pub(crate) boss: bool,
    /// The Python file that declares the stages and tasks
    #[arg(long, value_name = "FILE", requires = "boss")]
    pub(crate) pipedef: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// An address by which the page is reached from elsewhere, such as http://ci.example.com:9001
    #[arg(long, value_name = "URL", requires = "boss", value_parser = public_url)]
    pub(crate) public_url: Vec<String>,
    /// How many runs are kept; of those beyond, the first to have ended is removed first [default: 100000]
    #[arg(long, value_name = "N", requires = "boss", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_runs: Option<u64>,
    /// How many days an ended run is kept [default: 365]
    #[arg(long, value_name = "N", requires = "boss", value_parser = clap::value_parser!(u64).range(1..=36500))]
    pub(crate) keep_days: Option<u64>,
    /// How much all runs may take, with their output [default: 21474836480, 20 GiB]
    #[arg(long, value_name = "BYTES", requires = "boss")]
    pub(crate) keep_bytes: Option<u64>,
    /// Where data is kept [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How many steps run at once [default: the number of cores]
    #[arg(long, value_name = "N", requires = "worker", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) slots: Option<u16>,
    /// What makes the containers: docker, native (sandboxes of our own from docker's images, for root), auto (native
    /// where it has all of docker's walls and the image is used often, else docker), or fake (scripted by the command
    /// text, for tests)
    #[arg(long, value_name = "E", requires = "worker", default_value = AUTO, value_parser = [AUTO, "docker", "native", "fake"])]
    pub(crate) engine: String,
    /// Where Docker listens, such as unix:///var/run/docker.sock or http://127.0.0.1:2375
    #[arg(long, value_name = "URL", requires = "worker")]
    pub(crate) docker_host: Option<String>,
    /// The largest output_cap_bytes that a step may ask for
    #[arg(long, value_name = "BYTES", requires = "worker")]
    pub(crate) max_output_bytes: Option<u64>,
    /// How much output of ended steps is kept in all
    #[arg(long, value_name = "BYTES", requires = "worker")]
    pub(crate) spool_bytes: Option<u64>,
    /// How much unpacked images of the native engine may take in all [default: 21474836480, 20 GiB]
    #[arg(long, value_name = "BYTES", requires = "worker")]
    pub(crate) image_cache_bytes: Option<u64>,
    /// How much the sources of steps may take in all [default: 10737418240, 10 GiB]
    #[arg(long, value_name = "BYTES", requires = "worker")]
    pub(crate) source_cache_bytes: Option<u64>,
    /// How much images that build(...) made may take in Docker in all, without what they build upon [default: 21474836480, 20 GiB]
    #[arg(long, value_name = "BYTES", requires = "worker")]
    pub(crate) build_cache_bytes: Option<u64>,
    /// A capability that containers get in addition to the six that they have, such as NET_RAW
    #[arg(long, value_name = "CAP", requires = "worker")]
    pub(crate) allow_cap: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at a project and write the pipedef and the Dockerfile that run its tests; nothing is overwritten
    #[command(after_long_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Run a pipedef here and now; exit code 0 passed, 1 not passed, 2 set-up wrong, 3 errored, 130 cancelled
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Run again what did not pass in an earlier `bettertest run`, on its pipedef and images; exit codes as of run
    #[command(after_long_help = RERUN_EXAMPLES)]
    Rerun(RerunArgs),
    /// Show what failed in a run and why, in a few kilobytes, or a part of what a task printed
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Serve an agent: run the tests and show what failed as tools of MCP, over standard input and output
    #[command(after_long_help = MCP_EXAMPLES)]
    Mcp(McpArgs),
    /// Print a new login link of the boss on this machine
    #[command(after_long_help = OPEN_EXAMPLES)]
    Open(OpenArgs),
    /// Look at what is missing on this machine, and say what mends it; exit code 0 all well, 2 something is wrong
    #[command(after_long_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Print what a shell needs to complete the words of this command line
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Whose words they are
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of this command or of one of its own
    #[command(after_long_help = MAN_EXAMPLES)]
    Man {
        /// The command whose page it is
        #[arg(value_parser = ["init", "run", "rerun", "show", "mcp", "open", "doctor", "backup", "restore", "completions", "man"])]
        command: Option<String>,
    },
    /// Write the history of the boss on this machine, which may run, to one file
    #[command(after_long_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Make the history in a backup that of a data directory which has none
    #[command(after_long_help = RESTORE_EXAMPLES)]
    Restore(BackupArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder of the project
    #[arg(default_value = ".", value_name = "FOLDER")]
    pub(crate) path: PathBuf,
    /// Add how an agent runs the tests to the project's AGENTS.md
    #[arg(long)]
    pub(crate) agents: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A pipedef, or a folder that holds .bettertest/pipedef.py
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Stop at the first task that does not pass: what still runs is cancelled, and later tasks do not start
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Only what did not pass when it last ran here, in a new run; of tasks that passed nothing is said
    #[arg(long, conflicts_with_all = ["stage", "task"])]
    pub(crate) only_failed: bool,
    #[command(flatten)]
    pub(crate) how: HowToRun,
}

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// The project: its folder, or its pipedef
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Send every step to this worker, whatever the pipedef says
    #[arg(long, value_name = "URL")]
    pub(crate) worker: Option<String>,
    /// What makes the containers where no worker listens, as for `bettertest run`
    #[arg(long, value_name = "E", default_value = AUTO, value_parser = [AUTO, "docker", "native"])]
    pub(crate) engine: String,
    /// Where data is kept [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The number of a run, or `last`
    #[arg(default_value = "last", value_parser = which_run)]
    pub(crate) run: WhichRun,
    /// The task, as Stage.task or, where only one has that name, as task
    pub(crate) task: Option<String>,
    /// What the task printed, instead of what failed
    #[arg(long)]
    pub(crate) output: bool,
    /// The last lines of what it printed, so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tail: Option<u32>,
    /// The lines of what it printed that match this regular expression, each with its number
    #[arg(long, value_name = "REGEX")]
    pub(crate) grep: Option<String>,
    /// How each test of the task ended
    #[arg(long, conflicts_with_all = ["output", "tail", "grep"])]
    pub(crate) tests: bool,
    /// One test: what was wrong with it, and its history; by its name, or a part that no other name has
    #[arg(long, value_name = "NAME", conflicts_with_all = ["output", "tail", "grep", "tests"])]
    pub(crate) test: Option<String>,
    /// The files that are kept of the task
    #[arg(long, conflicts_with_all = ["output", "tail", "grep", "tests", "test"])]
    pub(crate) artifacts: bool,
    /// Write these files into this folder, over nothing that is there
    #[arg(long, value_name = "FOLDER", requires = "artifacts", conflicts_with = "json")]
    pub(crate) into: Option<PathBuf>,
    /// Only the file of this path in its container, as it is listed
    #[arg(long, value_name = "PATH", requires = "artifacts")]
    pub(crate) path: Option<String>,
    /// Of that attempt of it [default: the latest]
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// Print JSON instead
    #[arg(long, conflicts_with_all = ["output", "tail", "grep"])]
    pub(crate) json: bool,
    /// When to write colours: auto (where standard output is a terminal), always or never
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: Color,
    /// The project: its folder, or its pipedef
    #[arg(long, value_name = "PATH", default_value = ".", conflicts_with = "url")]
    pub(crate) project: PathBuf,
    /// Of the boss at this address, such as http://127.0.0.1:9001
    #[arg(long, value_name = "URL", value_parser = public_url)]
    pub(crate) url: Option<String>,
    /// Where data is kept, and the token of that boss [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RerunArgs {
    /// The number of a run of `bettertest run`, or `last`
    #[arg(default_value = "last", value_parser = which_run)]
    pub(crate) run: WhichRun,
    /// The project: its folder, or its pipedef
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Of these only the tests that had failed, where their commands have only_tests: quick, and never green
    #[arg(long)]
    pub(crate) failed_tests: bool,
    #[command(flatten)]
    pub(crate) how: HowToRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhichRun {
    Last,
    Number(u32),
}

fn which_run(text: &str) -> Result<WhichRun, String> {
    match text {
        "last" => Ok(WhichRun::Last),
        number => number.parse().map(WhichRun::Number).map_err(|_| {
            "a run is named by its number, or `last`; the project's folder comes after that".to_owned()
        }),
    }
}

/// What `run` and `rerun` have in common.
#[derive(Debug, Args)]
pub(crate) struct HowToRun {
    /// Print the run's events as JSON lines instead
    #[arg(long)]
    pub(crate) json: bool,
    /// When to write colours: auto (where standard output is a terminal), always or never
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: Color,
    /// Only the tasks of this stage (may be given several times); together with --task, what both select
    #[arg(long, value_name = "STAGE")]
    pub(crate) stage: Vec<String>,
    /// Only this task, as Stage.task or, where only one has that name, as task (may be given several times)
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// Send every step to this worker, whatever the pipedef says
    #[arg(long, value_name = "URL")]
    pub(crate) worker: Option<String>,
    /// What makes the containers where no worker listens: docker, native (sandboxes of our own from docker's images,
    /// for root), or auto (native where it has all of docker's walls and the image is used often, else docker)
    #[arg(long, value_name = "E", default_value = AUTO, value_parser = [AUTO, "docker", "native"])]
    pub(crate) engine: String,
    /// Where data is kept [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// The engine that nobody has to choose.
pub(crate) const AUTO: &str = "auto";

/// When colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// Where standard output is a terminal
    Auto,
    Always,
    Never,
}

impl Color {
    pub(crate) fn paint(self) -> Paint {
        match self {
            Color::Auto if terminal::is_stdout() => Paint::Colours,
            Color::Always => Paint::Colours,
            Color::Auto | Color::Never => Paint::Text,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The data directory to look at [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where Docker listens, such as unix:///var/run/docker.sock or http://127.0.0.1:2375
    #[arg(long, value_name = "URL")]
    pub(crate) docker_host: Option<String>,
    /// Print what was found as JSON instead
    #[arg(long)]
    pub(crate) json: bool,
    /// When to write colours: auto (where standard output is a terminal), always or never
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: Color,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// The data directory of that boss
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The backup
    pub(crate) file: PathBuf,
    /// The data directory of the boss [default: ~/.local/share/bettertest, of root /var/lib/bettertest]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Such as browsers send it: without what they leave out.
fn public_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match url {
        Some(url) if url.has_host() && url.path() == "/" && url.query().is_none() => {
            Ok(url.origin().ascii_serialization())
        }
        Some(_) | None => {
            Err("an address looks like http://ci.example.com:9001, with no path behind it".to_owned())
        }
    }
}

pub(crate) fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bettertest", &mut script);
    String::from_utf8(script).expect("its words are ours")
}

/// In roff, as `man` reads it.
pub(crate) fn manual(command: Option<&str>) -> String {
    let mut cli = Cli::command();
    cli.build();
    let command = command.and_then(|name| cli.find_subcommand(name)).unwrap_or(&cli);
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).expect("writing to a Vec does not fail");
    String::from_utf8(page).expect("its words are ours")
}

/// What the arguments ask for; or the text to print and be done (help, version); or what is wrong with them.
pub(crate) fn parse(
    args: impl Iterator<Item = std::ffi::OsString>,
) -> Result<Result<Cli, String>, SetupError> {
    match Cli::try_parse_from(args) {
        Ok(cli) => Ok(Ok(cli)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Err(error.to_string())),
            _ => {
                let text = error.to_string();
                let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
                // What is missing stands on lines of its own.
                let what = what.strip_prefix("error: ").unwrap_or(what);
                let what = what.lines().map(str::trim).collect::<Vec<_>>().join(" ");
                let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
                let hint =
                    tip.map_or_else(|| "bettertest --help lists what there is".to_owned(), str::to_owned);
                Err(SetupError::new(what, hint))
            }
        },
    }
}
