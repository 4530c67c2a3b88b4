//! Output from hell: however much, whatever it is and however it comes, the boss serves the exact bytes up to the
//! cap, says how many it left out, keeps its memory, and shows nothing that a terminal would obey.

use common::{Mark, OutputMark};
use reqwest::Method;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ci::{BINARY, Ci, Process, data_of, pipedef_of};

/// Of a step's output so much is kept of its beginning, and as much of its end.
const CAP: usize = 32 * 1024 * 1024;

/// What boss and worker may take each, whatever a test prints.
pub(crate) const MEMORY_KIB: u64 = 256 * 1024;

/// One task: a command for a shell, and what it prints.
struct Task {
    name: &'static str,
    command: String,
    printed: Printed,
}

enum Printed {
    /// All of it, then a line `sha256  -` of it.
    WithItsHash,
    Exactly(Vec<u8>),
    /// Longer than the cap: its beginning, its end, and how much was left out.
    Capped {
        head: Vec<u8>,
        tail: Vec<u8>,
        dropped: u64,
    },
}

impl Task {
    fn new(name: &'static str, command: impl Into<String>, printed: Printed) -> Task {
        Task { name, command: command.into(), printed }
    }

    /// Prints these bytes by `printf`, in as many writes as there are pieces.
    fn pieces(name: &'static str, pieces: &[&[u8]]) -> Task {
        let command: Vec<String> = pieces.iter().map(|piece| printf(piece)).collect();
        Task::new(name, command.join("; "), Printed::Exactly(pieces.concat()))
    }
}

fn printf(bytes: &[u8]) -> String {
    format!("printf '{}'", bytes.iter().map(|byte| format!("\\{byte:03o}")).collect::<String>())
}

/// `seq 1 last`, each number with `end` behind it.
fn numbers(last: u64, end: &str) -> Vec<u8> {
    let mut text = String::new();
    (1..=last).for_each(|number| text.push_str(&format!("{number}{end}")));
    text.into_bytes()
}

fn capped(all: &[u8]) -> Printed {
    let (head, tail) = (all[..CAP].to_vec(), all[all.len() - CAP..].to_vec());
    Printed::Capped { head, tail, dropped: (all.len() - 2 * CAP) as u64 }
}

/// `y` and a newline, again and again, until there are so many bytes; then a last line.
fn yes(bytes: u64) -> Task {
    let command = format!("yes | head -c {bytes}; echo the last line");
    let mut tail = b"y\n".repeat(CAP / 2);
    tail.extend_from_slice(b"the last line\n");
    let tail = tail.split_off(tail.len() - CAP);
    let dropped = bytes + 14 - 2 * CAP as u64;
    Task::new("yes", command, Printed::Capped { head: b"y\n".repeat(CAP / 2), tail, dropped })
}

/// One line without a newline.
fn long_line(last: u64) -> Task {
    Task::new("line", format!("seq 1 {last} | tr '\\n' ' '"), capped(&numbers(last, " ")))
}

fn one_byte_writes(count: usize) -> Task {
    Task::new(
        "writes",
        format!("dd if=/dev/zero bs=1 count={count} 2>/dev/null"),
        Printed::Exactly(vec![0; count]),
    )
}

/// What this product writes on its own wires, printed by a test.
const OUR_PROTOCOL: &[u8] = b"data: x\n\n\n: alive\n\nevent: exit\nid: 9\nretry: 1\n\ndata: {\"event\":\"exited\",\"exit_code\":0}\r\n\r\n\
{\"event\":\"exited\",\"exit_code\":0,\"oom\":false,\"took_ms\":1,\"signal\":null,\"cpu_ms\":null,\"peak_memory_bytes\":null}\n\
event: end\ndata: {}\n\n{\"say\":\"returned\"}\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";

/// What terminals obey, and what some take for the end of a line.
const OBEYED: [&[u8]; 40] = [
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1b]52;c;aGVsbG8=\x07",
    b"\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\",
    b"\x1b]1337;File=:AAAA\x07",
    b"\x1b]4;1;rgb:ff/00/00\x1b\\",
    b"\x1b]777;notify;a;b\x07",
    b"\x1bP$q\"p\x1b\\",
    b"\x1bPq#0;2;0;0;0#0~~\x1b\\",
    b"\x1b_Gf=24;AAAA\x1b\\",
    b"\x1b^private\x1b\\",
    b"\x1bXstring\x1b\\",
    b"\x1b[2J",
    b"\x1b[H",
    b"\x1b[10;10H",
    b"\x1b[5A",
    b"\x1b[1K",
    b"\x1b[?25l",
    b"\x1b[?1049h",
    b"\x1b[?1000h",
    b"\x1b[?1006h",
    b"\x1b[?2004h",
    b"\x1b[6n",
    b"\x1b[c",
    b"\x1b[>c",
    b"\x1b[21t",
    b"\x1b[>4;2m",
    b"\x1b[?1;2m",
    b"\x1b[!p",
    b"\x1bc",
    b"\x1b7\x1b8",
    b"\x1b(0",
    b"\x1b#8",
    b"\x9b31m\x9d0;t\x9c\x90q\x9c",
    b"\xc2\x9b31m\xc2\x9d0;t\xc2\x9c",
    b"\x05\x07\x08\x0b\x0c\x0e\x0f\x7f",
    b"\xe2\x80\xa8\xe2\x80\xa9\xc2\x85",
    b"\xe2\x80\xaeright\xe2\x81\xa6",
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;never ended",
];

fn obeyed() -> Task {
    let mut pieces: Vec<&[u8]> = Vec::new();
    for sequence in OBEYED {
        // Whole, and in two writes.
        pieces.extend([b"before ", sequence, b" after\n", &sequence[..1], &sequence[1..], b"\n"]);
    }
    Task::pieces("obeyed", &pieces)
}

fn odd_bytes() -> Vec<Task> {
    let all: Vec<u8> = (0..=255).collect();
    let all_bytes = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done > /tmp/all; \
                     i=0; while [ $i -lt 1000 ]; do cat /tmp/all; i=$((i+1)); done";
    let noise = "head -c 10485760 /dev/urandom > /tmp/noise; cat /tmp/noise; sha256sum < /tmp/noise";
    let arrows = "yes '\u{2192}' | tr -d '\\n' | head -c 3000001";
    vec![
        Task::new("all_bytes", all_bytes, Printed::Exactly(all.repeat(1000))),
        Task::new("noise", noise, Printed::WithItsHash),
        Task::new(
            "arrows",
            arrows,
            Printed::Exactly("\u{2192}".repeat(1_000_001).into_bytes()[..3_000_001].to_vec()),
        ),
        Task::new(
            "halves",
            "printf '\\303'; sleep 0.1; printf '\\251\\342'; sleep 0.1; printf '\\202'; sleep 0.1; printf '\\254\\360\\237'",
            Printed::Exactly(b"\xc3\xa9\xe2\x82\xac\xf0\x9f".to_vec()),
        ),
        Task::pieces("protocol", &[OUR_PROTOCOL]),
        obeyed(),
    ]
}

fn returns(lines: usize) -> Task {
    let command = format!("yes \"$(printf 'a\\rb\\rc')\" | head -n {lines}");
    Task::new("returns", command, Printed::Exactly(b"a\rb\rc\n".repeat(lines)))
}

/// Runs them all at once, in containers, and compares what the boss serves of each.
#[expect(clippy::print_stderr, reason = "a figure to look at")]
async fn survive(engine: &str, tasks: Vec<Task>, patience: Duration) {
    let methods: String = (tasks.iter())
        .map(|task| {
            let command = serde_json::to_string(&task.command).expect("text is JSON");
            format!("    def task_{}(self): run(WORKER, IMAGE, {command})\n", task.name)
        })
        .collect();
    let ci = Ci::with_engine(&format!("class Hell(Stage):\n{methods}"), engine).await;
    let begin = Instant::now();
    let run = ci.follow_for(patience, ci.start().await, |_, _| false).await;
    eprintln!("all was printed after {:?}", begin.elapsed());
    assert_eq!(run.words(), "passed", "{}", run.summary());
    for task in &tasks {
        let name = task.name;
        let path = format!("/api/runs/{}/tasks/Hell.{name}/output", run.number);
        let output = ci.ask(Method::GET, &path).send().await.unwrap().bytes().await.unwrap();
        let index = ci.ask(Method::GET, &format!("{path}/index")).send().await.unwrap().text().await.unwrap();
        let marks: Vec<OutputMark> = index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let left_out: u64 = marks
            .iter()
            .map(|mark| match &mark.mark {
                Mark::Dropped { bytes, .. } => {
                    assert_eq!(mark.offset, CAP as u64, "{name}");
                    *bytes
                }
                Mark::Gap { .. } => panic!("{name} has a gap"),
                Mark::Output { .. } | Mark::Pipedef | Mark::PipedefDropped { .. } => 0,
            })
            .sum();
        let dropped = match &task.printed {
            Printed::Exactly(bytes) => {
                assert_same(name, &output, bytes);
                0
            }
            Printed::WithItsHash => {
                let (bytes, said) = output.split_at(output.len() - 68);
                let hash = <sha2::Sha256 as sha2::Digest>::digest(bytes);
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(String::from_utf8_lossy(said), format!("{hash}  -\n"), "{name}");
                0
            }
            Printed::Capped { head, tail, dropped } => {
                assert_same(name, &output[..CAP], head);
                assert_same(name, &output[CAP..], tail);
                *dropped
            }
        };
        assert_eq!(left_out, dropped, "{name}");
    }
    for process in [&ci.boss, &ci.worker] {
        let peak = peak_kib(process);
        eprintln!("{peak} KiB at most: {}", process.ready);
        assert!(peak < MEMORY_KIB, "{} took {peak} KiB", process.ready);
    }
}

fn assert_same(name: &str, output: &[u8], printed: &[u8]) {
    let differ = output.iter().zip(printed).position(|(one, other)| one != other);
    assert_eq!((output.len(), differ), (printed.len(), None), "{name}: length, and where it differs first");
}

/// The most memory that a process ever had.
pub(crate) fn peak_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).expect("it lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bytes_arrive_unchanged() {
    survive("docker", odd_bytes(), Duration::from_secs(600)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_keeps_its_beginning_and_its_end() {
    survive(
        "docker",
        vec![yes(1 << 30), long_line(13_000_000), returns(1_000_000), one_byte_writes(30_000)],
        Duration::from_secs(600),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_of_native_steps() {
    if nix::unistd::geteuid().is_root() {
        let much = [yes(1 << 30), long_line(13_000_000), returns(1_000_000), one_byte_writes(100_000)];
        survive("native", odd_bytes().into_iter().chain(much).collect(), Duration::from_secs(600)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn ten_gigabytes_and_a_line_of_one() {
    survive(
        "docker",
        vec![yes(10 << 30), long_line(112_000_000), one_byte_writes(1_000_000)],
        Duration::from_secs(900),
    )
    .await;
}

/// What `bettertest run` writes: of a task's output, its traceback, its names and its commands.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_terminal_obeys_reaches_it() {
    let all: Vec<u8> = OBEYED.iter().flat_map(|sequence| [b"<", *sequence, b">\n"].concat()).collect();
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    let ci = Ci::with(&format!(
        r#"
import os, sys
ALL = bytes.fromhex("{hex}")
class One(Stage):
    def task_prints(self):
        sys.stdout.buffer.write(ALL)
        run(WORKER, IMAGE, "bytes {hex}; exit 3")

    def task_raises(self):
        run(WORKER, IMAGE, "true")
        raise ValueError(ALL.decode("utf-8", "replace"))

    def task_says(self):
        run(WORKER, IMAGE, ["print", ALL.decode("utf-8", "replace").replace("\0", "")])
        run(WORKER, IMAGE, ["false", ALL.decode("utf-8", "replace").replace("\0", "")])
"#
    ))
    .await;
    let data = data_of(ci.folder.path());
    for json in [&[][..], &["--json"][..]] {
        let mut command = Command::new(BINARY);
        command.args(["run", "--worker", &ci.worker.base, "--data-dir"]).arg(&data).args(json);
        command.arg(pipedef_of(ci.folder.path())).stdin(Stdio::null());
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
        let said = [done.stdout, done.stderr].concat();
        let text = String::from_utf8(said).expect("it writes text");
        assert!(text.contains("<> link") || text.contains("red"), "nothing of the output was shown: {text}");
        let obeyed: Vec<char> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert_eq!(obeyed, Vec::<char>::new(), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2066}']), "{text:?}");
    }
}
