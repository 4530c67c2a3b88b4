//! Every limit that both servers share and every timer there is, each with its reason. Nothing in this program
//! asks on a timer whether something is done.

use std::time::Duration;

/// A comment on every stream that is silent for so long, so that both ends know that the other lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A stream that says nothing for so long, not even a keep-alive, is taken for dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// A reader that takes no byte for so long is disconnected, if the kernel has not done so after `SILENCE`. What it
/// missed it can fetch: readers follow files.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(30);

/// What one connection may hold back, besides the piece that is being written.
pub(crate) const CONNECTION_BYTES: usize = 64 * 1024;

/// From accepting a connection to the end of its request's headers.
pub(crate) const HEADERS: Duration = Duration::from_secs(30);

/// How long answers that are being written may go on at shutdown, after streams have been ended.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(5);

/// The longest body of a request. A StepSpec or a list of 20,000 tasks fits well.
pub(crate) const BODY_BYTES: usize = 4 * 1024 * 1024;

/// A boss that is told to stop waits so long for its runs to end, before it leaves them to the next one.
pub(crate) const DRAIN: Duration = Duration::from_secs(60);

/// A worker that is away is told of a step that nobody waits for any more this often, until no step can live that long.
pub(crate) const ORPHAN_AGAIN: Duration = Duration::from_secs(16);
pub(crate) const ORPHAN: Duration = Duration::from_secs(8 * 24 * 3600);

/// A request that was given up may still arrive for so long, at a worker that was stopped for instance.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// A store that takes nothing, on a full disk for instance, is tried again this often.
pub(crate) const STORE_AGAIN: Duration = Duration::from_secs(5);

/// `bettertest doctor` waits so long for whatever it asks; all is asked at once.
pub(crate) const DOCTOR: Duration = Duration::from_secs(4);

/// How much of its history a boss keeps, unless it is told otherwise. So many runs are what lists are known to page
/// through at once; a year is what anybody asks back to; and the bytes are as many as a worker keeps.
pub(crate) const KEEP_RUNS: u64 = 100_000;
pub(crate) const KEEP_AGE: Duration = Duration::from_secs(365 * 24 * 3600);
pub(crate) const KEEP_BYTES: u64 = 20 * 1024 * 1024 * 1024;

/// And of a project's local runs: nobody set a disk aside for these.
pub(crate) const KEEP_LOCAL_RUNS: u64 = 1_000;
pub(crate) const KEEP_LOCAL_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Runs grow old also where none starts or ends: the history is looked through this often.
pub(crate) const KEEP_HOUSE: Duration = Duration::from_secs(3600);

/// The files that are kept of a step have to come from its worker within so long. Its end is told after that.
pub(crate) const ARTIFACTS_FETCH: Duration = Duration::from_secs(60);

/// A client of `bettertest mcp` that wants to hear of a run hears this often that it goes on. Some give up after 30 s.
pub(crate) const MCP_SILENCE: Duration = Duration::from_secs(10);

// What follows is the worker's.

/// A queued step that got no slot for so long is given up.
pub(crate) const QUEUE: Duration = Duration::from_secs(24 * 3600);

/// What a step may take from its start, unless its spec says otherwise.
pub(crate) const STEP_TIMEOUT_S: u32 = 3600;

/// Pulling an image.
pub(crate) const PULL: Duration = Duration::from_secs(300);

/// News of a pull are told this often at most; they are for a person to look at.
pub(crate) const PULL_NEWS: Duration = Duration::from_millis(500);

/// So long it may take until it is on disk that a step is cancelled. One that asks for it has to ask again then.
pub(crate) const CANCEL: Duration = Duration::from_secs(5);

/// What a step gets between SIGTERM and SIGKILL.
pub(crate) const TERM_GRACE: Duration = Duration::from_secs(10);

/// A step that is alive so long after SIGKILL is beyond our reach: `kill_failed`.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(30);

/// A step without an id is cancelled when it had no reader for so long.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// Output that comes in small pieces is passed on this often at most.
pub(crate) const OUTPUT_PACE: Duration = Duration::from_millis(1);

/// An unfinished character waits for its other bytes so long before it is sent as the bytes it is.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// Of a step's output so much is kept of its beginning, and as much again of its end.
pub(crate) const OUTPUT_CAP_BYTES: u64 = 32 * 1024 * 1024;

/// What all spools together may take on disk.
pub(crate) const SPOOL_BYTES: u64 = 20 * 1024 * 1024 * 1024;

/// With less free space on the disk of the spools no step is taken; on a small disk, with less than a tenth.
pub(crate) const FREE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
pub(crate) const SMALL_DISK_BYTES: u64 = 20 * 1024 * 1024 * 1024;

/// Housekeeping: containers that nobody waits for are removed, full spools made room in.
pub(crate) const SWEEP: Duration = Duration::from_secs(60);

/// While the disk does not take what has to be written down, it is tried this often whether it does again.
pub(crate) const DISK_AGAIN: Duration = Duration::from_secs(5);

/// Old records are looked for this often.
pub(crate) const KEEP_RECORDS: Duration = Duration::from_secs(3600);

/// The record of an ended step is kept so long.
pub(crate) const RECORD: Duration = Duration::from_secs(7 * 24 * 3600);

/// What running steps get to write down where they are when a worker hands over.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(4);

/// An engine that is away in the middle of a step is waited for so long, with a look this often.
pub(crate) const ENGINE_AWAY: Duration = Duration::from_secs(60);
pub(crate) const ENGINE_RETRY: Duration = Duration::from_millis(500);

/// Calls of Docker that ask whether it is there, that only look, that change something, and that start a container.
/// On a busy machine a look may wait for the start of another container; that is no reason to give a step up.
pub(crate) const DOCKER_PING: Duration = Duration::from_secs(5);
pub(crate) const DOCKER_LOOK: Duration = Duration::from_secs(15);
pub(crate) const DOCKER_CHANGE: Duration = Duration::from_secs(30);
pub(crate) const DOCKER_START: Duration = Duration::from_secs(60);

/// When nothing was heard of a container for so long, Docker is asked whether it still runs: its streams have no
/// keep-alive, and one that is broken may look like one on which nothing happens.
pub(crate) const DOCKER_SILENCE: Duration = Duration::from_secs(30);

/// After the end of a container, the rest of its output has to arrive with no longer pause than this.
pub(crate) const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// The output of a container closes when the container ends, and not so much earlier. What does was cut.
pub(crate) const OUTPUT_CLOSED: Duration = Duration::from_millis(500);

/// What the sources of steps may take on disk.
pub(crate) const SOURCE_CACHE_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// A source that was sent or used so lately is about to be used, and what is half sent for so long never will be.
pub(crate) const SOURCE_RECENT: Duration = Duration::from_secs(600);
/// A tree that was used so lately may be used once more before its next step has been asked for.
pub(crate) const SOURCE_IDLE: Duration = Duration::from_secs(5);
pub(crate) const SOURCE_DRAFT: Duration = Duration::from_secs(3600);

/// What images that were built may have of their own in Docker. One that was used so lately a later stage of its run may
/// want; a task takes no longer.
pub(crate) const BUILD_CACHE_BYTES: u64 = 20 * 1024 * 1024 * 1024;
pub(crate) const BUILD_RECENT: Duration = Duration::from_secs(7200);

/// Copying a source into a container of Docker.
pub(crate) const DOCKER_COPY: Duration = Duration::from_secs(300);

/// Taking the files out of a container that a step wants kept; what is taken by then is kept. A worker that hands
/// over, and a step that is cancelled meanwhile, do not wait for it.
pub(crate) const ARTIFACTS: Duration = Duration::from_secs(60);

/// What unpacked images of the native engine may take on disk.
pub(crate) const IMAGE_CACHE_BYTES: u64 = 20 * 1024 * 1024 * 1024;
