-- The tests of each attempt, as it was known when that ended. Written once, in the transaction of its end, and gone with
-- its run. A test takes about three bytes in each attempt: its name stands here once.

CREATE TABLE test_name (
    id INTEGER PRIMARY KEY,
    -- Stage.task
    task TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The latest run that has it, or one some runs before that: not every run writes here.
    used_in INTEGER NOT NULL,
    -- Of the task and the name, which are found by it.
    hash INTEGER NOT NULL,
    -- Of the id, the task and the name.
    sum INTEGER NOT NULL
) STRICT;

CREATE INDEX test_name_by_hash ON test_name (hash);
CREATE INDEX test_name_by_use ON test_name (used_in);

CREATE TABLE attempt_tests (
    task TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES run (number),
    attempt INTEGER NOT NULL CHECK (attempt > 0),
    -- A sum of what it was an attempt on: equal for equal files in equal images.
    ground INTEGER NOT NULL,
    -- Of a run that has a source.
    commit_id TEXT,
    tree TEXT,
    ended_at_ms INTEGER NOT NULL,
    -- Tests with a name that are only counted.
    omitted INTEGER NOT NULL,
    -- Which test, how it ended, how long it took; the worst first. See results/packed.rs.
    results BLOB NOT NULL,
    -- Of what stands in `test_failures` of it; null where nothing does.
    failures_sum INTEGER,
    -- Of all of it.
    sum INTEGER NOT NULL,
    PRIMARY KEY (task, run, attempt)
) STRICT;

CREATE INDEX attempt_tests_by_run ON attempt_tests (run);
CREATE INDEX attempt_tests_by_ground ON attempt_tests (ground);

-- What was wrong with those that failed: of each, its place in `results`, the message and the stack, as JSON.
CREATE TABLE test_failures (
    task TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES run (number),
    attempt INTEGER NOT NULL CHECK (attempt > 0),
    failures TEXT NOT NULL,
    PRIMARY KEY (task, run, attempt)
) STRICT;

CREATE INDEX test_failures_by_run ON test_failures (run);
