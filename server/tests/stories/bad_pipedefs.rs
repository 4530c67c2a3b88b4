//! Pipedefs from hell: whatever one does while it is read, or in a task, ends in a message or a definite verdict,
//! harms nobody else, and leaves no process behind.

use common::Phase;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::ci::{Ci, data_of, pipedef_of, write_pipedef};
use crate::command::{Project, err, refused};

/// Nobody waits longer for word of a broken pipedef.
const LONGEST: Duration = Duration::from_secs(12);

/// After the three lines that every pipedef here begins with.
const GOOD: &str = "class Good(Stage):\n    def task_x(self): run(WORKER, IMAGE, 'print fine')\n";

/// What is said within a moment: (the text, a part of the error, the line where there is one). `GOOD` follows it.
const BROKEN: &[(&str, &str, Option<u64>)] = &[
    // It is no Python.
    ("class One(Stage:\n    pass\n", "SyntaxError", Some(4)),
    ("if True:\n        x = 1\n\ty = 2\n", "TabError", Some(6)),
    ("print 'hello'\n", "Missing parentheses", Some(4)),
    ("<<<<<<< HEAD\nX = 1\n=======\nX = 2\n>>>>>>> other\n", "SyntaxError", Some(4)),
    ("x = '\0'\n", "line 4 of pipedef.py holds a NUL character", Some(4)),
    // It wants what is not there.
    ("input()\n", "EOFError", Some(4)),
    ("import no_such_module_anywhere\n", "no_such_module_anywhere", Some(4)),
    ("open('/nonexistent/x')\n", "FileNotFoundError", Some(4)),
    // It raises.
    ("1 / 0\n", "ZeroDivisionError", Some(4)),
    ("def f(): return f()\nf()\n", "RecursionError", Some(4)),
    (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E()\n",
        "its __str__ raised",
        Some(6),
    ),
    (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E()\n",
        "its __str__ raised",
        Some(6),
    ),
    ("class E(BaseException): pass\nraise E('hm')\n", "E: hm", Some(5)),
    ("raise GeneratorExit\n", "GeneratorExit", Some(4)),
    ("import sys\nsys.excepthook = None\n1 / 0\n", "ZeroDivisionError", Some(6)),
    ("import sys\nsys.settrace(lambda *a: 1 / 0)\ndef f(): pass\nf()\n", "ZeroDivisionError", Some(5)),
    ("import os\nfor n in range(1024): os.write(1, b'x' * (1 << 20))\n1 / 0\n", "ZeroDivisionError", Some(6)),
    // It takes too much.
    ("x = []\nwhile True: x.append(bytearray(1 << 20))\n", "MemoryError", Some(5)),
    ("x = []\nwhile True: x.append([0] * 2000)\n", "MemoryError", Some(5)),
    ("x = bytearray(1 << 40)\n", "MemoryError", Some(4)),
    (
        "class A(Stage): pass\nfor n in range(20001): setattr(A, f'task_{n}', lambda: None)\n",
        "20000 are the most",
        None,
    ),
    // It ends.
    ("import sys\nsys.exit(0)\n", "sys.exit(0)", Some(5)),
    ("import os\nos._exit(0)\n", "Python ended", None),
    ("import os\nos.abort()\n", "Python ended", None),
    ("import ctypes\nctypes.string_at(0)\n", "Python ended", None),
    ("import os\nos.killpg(0, 9)\n", "Python ended", None),
    (
        "import os\nos.execv('/bin/echo', ['echo', 'other words'])\n",
        "Python ended while it read the pipedef: other words",
        None,
    ),
    ("import os\nos.execv('/bin/sleep', ['sleep', '1000'])\n", "Python ended", None),
    ("import signal, time\nsignal.alarm(1)\ntime.sleep(100)\n", "Python ended", None),
    // It meddles with what carries its answer.
    ("import os\nos.close(3)\n", "Python ended", None),
    ("import os\nos.closerange(0, 100)\n", "Python ended", None),
    ("import os\nos.write(3, b'garbage\\n')\n", "wrote to descriptor 3", None),
    ("import os, time\nos.write(3, b'\\xff\\xfe\\n')\ntime.sleep(1e9)\n", "wrote to descriptor 3", None),
    ("import os\nos.write(3, b'{\"say\":')\n", "wrote to descriptor 3", None),
    ("import os\nos.write(3, b'{\"say\":\"returned\"}\\n')\n", "wrote to descriptor 3", None),
    ("import os\nfor n in range(20): os.write(3, b'x' * (1 << 20))\n", "wrote to descriptor 3", None),
    ("import json\njson.dumps = None\n", "Python ended while it read the pipedef: TypeError", None),
    ("import os\nos.write = None\n", "Python ended while it read the pipedef: TypeError", None),
    ("import sys\nsys.modules.clear()\n", "Python ended", None),
    (
        "import builtins\nfor n in 'len', 'isinstance', 'vars', 'type': setattr(builtins, n, None)\n",
        "Type",
        None,
    ),
    // It declares what cannot be run.
    (
        "for n in 'a/b', '..', 'a\\nb', '\u{1f600}', '\u{202e}gnp', 'x' * 4096, '': type(n, (Stage,), {'task_x': 1})\n",
        "a stage has the name 'a/b'",
        Some(4),
    ),
    ("class A(Stage): pass\nsetattr(A, 'task_\u{202e}gnp', lambda: None)\n", "a task of the name", Some(5)),
    ("class A(Stage): pass\nsetattr(A, 'task_../../x', lambda: None)\n", "a task of the name", Some(5)),
    ("class Good(Stage):\n    def task_y(self): pass\n", "two stages are named Good", Some(6)),
];

/// What never says anything by itself.
const ENDLESS: &[&str] = &[
    "while True: pass\n",
    "import signal, time\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1000)\n",
    "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()\n",
    "import os, time\nfor n in range(3): os.fork()\ntime.sleep(1e6)\n",
    "import os\nos.write = lambda *a: 0\n",
];

/// Odd, and yet it works.
const ODD: &[(&str, &str)] = &[
    (
        "forks",
        "import os, time\nfor n in range(3):\n    if os.fork() == 0:\n        time.sleep(1000)\n        os._exit(0)\n",
    ),
    ("forks and goes on twice", "import os\nos.fork()\n"),
    (
        "leaves threads",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n",
    ),
    ("goes elsewhere", "import os, tempfile\nd = tempfile.mkdtemp()\nos.chdir(d)\nos.rmdir(d)\n"),
    ("listens to signals", "import signal\nfor s in 1, 2, 15: signal.signal(s, signal.SIG_IGN)\n"),
    ("says nothing", "import sys\nsys.stdout = sys.stderr = None\n"),
    ("reads to the end", "import sys\nassert sys.stdin.read() == ''\n"),
    ("never wants to end", "import atexit, time\natexit.register(time.sleep, 1e6)\n"),
    ("removes itself", "import os\nif os.path.exists(__file__): os.remove(__file__)\n"),
];

async fn started(ci: &Ci) -> (StatusCode, Value, Duration) {
    let began = Instant::now();
    let (status, answer) = ci.post("/api/runs").await;
    (status, answer, began.elapsed())
}

fn says(problem: &Value, part: &str, text: &str) {
    let error = problem["error"].as_str().unwrap_or_else(|| panic!("{text}: {problem}"));
    assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
    assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{text}: {problem}");
    assert!(problem["file"].as_str().is_some_and(|file| file.ends_with("pipedef.py")), "{text}: {problem}");
}

/// No process that the boss has started is left: they are known by the library that they were given.
pub(crate) fn nothing_is_left(folder: &Path, but: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_of(folder, but);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left running: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn processes_of(folder: &Path, but: &[u32]) -> Vec<(u32, String)> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if (command.contains(folder) || cwd.starts_with(folder)) && !but.contains(&pid) {
            found.push((pid, command));
        }
    }
    found
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_says_what_is_wrong_while_others_go_on() {
    // A run that is under way all the time.
    let ci = Ci::with(
        r#"
import os, time
done = os.path.join(os.path.dirname(__file__), "done")

class Long(Stage):
    def task_on(self):
        while not os.path.exists(done):
            run(WORKER, IMAGE, "print on")
            time.sleep(0.5)
        run(WORKER, IMAGE, "print done")
"#,
    )
    .await;
    let run = ci.start().await;
    let ours = [ci.boss.child.id(), ci.worker.child.id()];
    for (text, part, line) in BROKEN {
        ci.rewrite(&format!("{text}{GOOD}"));
        let (status, problem, took) = started(&ci).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}: {problem}");
        says(&problem, part, text);
        assert_eq!(problem["line"].as_u64(), *line, "{text}: {problem}");
        assert!(took < LONGEST, "{text}: {took:?}");
        if part.starts_with("SyntaxError") {
            let traceback = problem["traceback"].as_str().unwrap_or_default();
            assert!(traceback.contains('^'), "no caret: {problem}");
        }
    }
    let written = |bytes: &[u8]| std::fs::write(pipedef_of(ci.folder.path()), bytes).unwrap();
    let head = "from bettertest import Stage, run\n";
    let utf16: Vec<u8> = head.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = [b"\xff\xfe", &utf16[..]].concat();
    let latin = [head.as_bytes(), b"# \xe9t\xe9\n"].concat();
    let large = vec![b'#'; 17 << 20];
    for (bytes, part) in [
        (&utf16[..], "is UTF-16"),
        (&latin, "line 2 of pipedef.py is not utf-8"),
        (&large, "is larger than 16 MiB"),
    ] {
        written(bytes);
        let (status, problem, _) = started(&ci).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{part}: {problem}");
        says(&problem, part, part);
    }

    // The run beside it has noticed nothing, and the boss is the same process as before, no larger than it may be.
    let told = ci.follow(run, |state, _| state.phase == Phase::Running).await;
    assert!(told.words().starts_with("running"), "{}", told.summary());
    std::fs::write(pipedef_of(ci.folder.path()).with_file_name("done"), "").unwrap();
    let told = ci.follow(run, |_, _| false).await;
    assert_eq!(told.words(), "passed");
    assert_eq!(ci.get("/api/runs").await["runs"].as_array().unwrap().len(), 1, "no broken one made a run");
    assert!(peak_kib(ci.boss.child.id()) < 256 * 1024, "{} KiB", peak_kib(ci.boss.child.id()));
    nothing_is_left(ci.folder.path(), &ours);
}

#[tokio::test]
async fn what_never_ends_is_ended_after_10_s_with_all_that_it_started() {
    let mut asked = tokio::task::JoinSet::new();
    for text in ENDLESS {
        asked.spawn(async move {
            let folder = tempfile::tempdir().unwrap();
            write_pipedef(folder.path(), &format!("{text}{GOOD}"), "http://127.0.0.1:9");
            let boss = Ci::start_boss(folder.path());
            let token = std::fs::read_to_string(data_of(folder.path()).join("token")).unwrap();
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let ask = |method: Method, path: &str| {
                http.request(method, format!("{}{path}", boss.base)).bearer_auth(token.trim())
            };
            let began = Instant::now();
            let answer = ask(Method::GET, "/api/pipeline").send().await.unwrap();
            let took = began.elapsed();
            assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{text}");
            says(&answer.json().await.unwrap(), "was not read within 10 s", text);
            assert!(took < LONGEST, "{text}: {took:?}");
            nothing_is_left(folder.path(), &[boss.child.id()]);
            let runs = ask(Method::GET, "/api/runs").send().await.unwrap();
            assert_eq!(runs.status(), StatusCode::OK, "the boss is there");
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn what_is_only_odd_runs() {
    let ci = Ci::with("").await;
    let ours = [ci.boss.child.id(), ci.worker.child.id()];
    for (name, text) in ODD {
        ci.rewrite(&format!("{text}{GOOD}"));
        let run = ci.run().await;
        assert_eq!(run.summary(), "passed\nGood.x passed", "{name}");
    }
    let pipedef = pipedef_of(ci.folder.path());
    ci.rewrite(GOOD);
    let text = std::fs::read_to_string(&pipedef).unwrap();
    let latin = [b"# -*- coding: latin-1 -*-\n# \xe9t\xe9\n", text.as_bytes()].concat();
    let files: [(&str, Vec<u8>); 3] = [
        ("BOM", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("CRLF", text.replace('\n', "\r\n").into_bytes()),
        ("Latin-1", latin),
    ];
    for (name, bytes) in files {
        std::fs::write(&pipedef, bytes).unwrap();
        assert_eq!(ci.run().await.words(), "passed", "{name}");
    }
    // A link is the file that it leads to.
    let elsewhere = ci.folder.path().join("elsewhere.py");
    std::fs::rename(&pipedef, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &pipedef).unwrap();
    assert_eq!(ci.run().await.words(), "passed");
    nothing_is_left(ci.folder.path(), &ours);
}

#[test]
fn what_cannot_be_opened_and_no_python_are_said_at_once() {
    let project = Project::with_fake_engine(GOOD);
    let pipedef = pipedef_of(project.folder.path());
    let leads_to = |target: &str| {
        std::fs::remove_file(&pipedef).unwrap();
        std::os::unix::fs::symlink(target, &pipedef).unwrap();
    };
    let began = Instant::now();
    leads_to("/nonexistent/pipedef.py");
    refused(&project.run(&[]), "there is no .bettertest/pipedef.py");
    leads_to("/dev/zero");
    refused(&project.run(&[]), "is not a regular file");
    leads_to("/");
    refused(&project.run(&[]), "is a folder");
    // Not even root reads this one.
    leads_to("/proc/self/mem");
    refused(&project.run(&[]), "cannot be read");

    std::fs::remove_file(&pipedef).unwrap();
    write_pipedef(project.folder.path(), GOOD, &project.worker.as_ref().unwrap().base);
    let with_path = |path: &Path| project.command_of("run", &[]).env("PATH", path).output().unwrap();
    refused(&with_path(Path::new("/nonexistent")), "there is no python3 on this machine's PATH");
    let bin = project.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let is = |script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = bin.join("python3");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    is("echo python3 is not for you >&2; exit 1");
    refused(&with_path(&bin), "Python ended while it read the pipedef: python3 is not for you");
    // An older Python, as far as it says so.
    let path = std::env::var("PATH").unwrap();
    is(&format!(
        "PATH='{path}'; shift; shift; code=\"$1\"; shift\n\
         exec python3 -u -c \"import sys; sys.version_info = (3, 8, 1); sys.version = '3.8.1 (old)'\n$code\" \"$@\""
    ));
    refused(&with_path(&bin), "bettertest needs Python 3.9 or newer, and this is 3.8.1");
    assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
    let works = project.run(&[]);
    assert_eq!(works.status.code(), Some(0), "{}", err(&works));
}

/// Each does its worst after a step that went well: none is green for that.
const HORRORS: &str = r#"
import ctypes, json, os, signal, subprocess, sys, threading, time

class Ends(Stage):
    def task_closes_its_descriptor(self):
        run(WORKER, IMAGE, "print x")
        os.close(3)

    def task_closes_all(self):
        run(WORKER, IMAGE, "print x")
        os.closerange(0, 100)

    def task_writes_garbage(self):
        run(WORKER, IMAGE, "print x")
        os.write(3, b"garbage\n")

    def task_writes_half_a_message(self):
        run(WORKER, IMAGE, "print x")
        os.write(3, b'{"say":')

    def task_becomes_another(self):
        run(WORKER, IMAGE, "print x")
        os.execv("/bin/true", ["true"])

    def task_becomes_endless(self):
        run(WORKER, IMAGE, "print x")
        os.execv("/bin/sleep", ["sleep", "1000"])

    def task_kills_itself(self):
        run(WORKER, IMAGE, "print x")
        os.kill(os.getpid(), 9)

    def task_kills_its_group(self):
        run(WORKER, IMAGE, "print x")
        os.killpg(0, 9)

    def task_crashes(self):
        run(WORKER, IMAGE, "print x")
        ctypes.string_at(0)

    def task_exits_in_a_thread_of_none(self):
        run(WORKER, IMAGE, "print x")
        raise KeyboardInterrupt

    def task_breaks_json(self):
        run(WORKER, IMAGE, "print x")
        json.dumps = None

    def task_breaks_os(self):
        run(WORKER, IMAGE, "print x")
        os.write = None

class Raises(Stage):
    always = True

    def task_recurses(self):
        run(WORKER, IMAGE, "print x")
        self.task_recurses_for_ever()

    def _for_ever(self):
        return self._for_ever()

    def task_recurses_for_ever(self):
        run(WORKER, IMAGE, "print x")
        self._for_ever()

    def task_takes_all_memory(self):
        run(WORKER, IMAGE, "print x")
        bytearray(1 << 60)

    def task_cannot_say_why(self):
        run(WORKER, IMAGE, "print x")
        class E(Exception):
            def __str__(self): raise RuntimeError
        raise E

    def task_exits_saying_why(self):
        run(WORKER, IMAGE, "print x")
        class E(Exception):
            def __str__(self): raise SystemExit(0)
        raise E

    def task_traces(self):
        run(WORKER, IMAGE, "print x")
        sys.settrace(lambda *a: 1 / 0)
        self._for_ever()

class Works(Stage):
    always = True

    def task_forks(self):
        os.fork()
        run(WORKER, IMAGE, "print x")

    def task_leaves_a_child(self):
        subprocess.Popen(["sleep", "1000"])
        run(WORKER, IMAGE, "print x")

    def task_goes_elsewhere(self):
        os.chdir("/")
        os.close(1)
        run(WORKER, IMAGE, "print x")

class Hangs(Stage):
    always = True

    def task_for_ever(self):
        for s in 1, 2, 15: signal.signal(s, signal.SIG_IGN)
        subprocess.Popen(["sh", "-c", "trap '' 1 2 15; sleep 1000"])
        run(WORKER, IMAGE, "print x")
        while True: time.sleep(1000)
"#;

#[tokio::test]
async fn the_same_in_a_task_is_never_green() {
    let ci = Ci::with(HORRORS).await;
    let run = ci.start().await;
    let id = common::TaskId::new("Hangs", "for_ever");
    ci.follow(run, |state, fact| {
        let ended = |step: &common::StepRun| matches!(step.state, common::StepState::Ended(_));
        let attempt = state.task(&id).and_then(|task| task.attempts.last());
        matches!(fact, common::RunFact::Step { .. }) && attempt.is_some_and(|a| a.steps.iter().any(ended))
    })
    .await;
    assert_eq!(ci.post(&format!("/api/runs/{run}/cancel")).await.0, StatusCode::OK);
    let told = ci.follow(run, |_, _| false).await;
    for task in told.state.tasks() {
        let due = match task.id.stage.as_str() {
            "Ends" => "errored: runner_died",
            "Raises" => "failed: raised",
            "Works" => "passed",
            _ => "cancelled: cancel_asked",
        };
        assert_eq!(told.task(&task.id.to_string()), due, "{}", task.id);
    }
    assert_eq!(told.words(), "errored: runner_died");
    nothing_is_left(ci.folder.path(), &[ci.boss.child.id(), ci.worker.child.id()]);
}
