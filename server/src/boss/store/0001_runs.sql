-- A run is its events; the other columns of `run` are for lists and can be rebuilt from them.
CREATE TABLE run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE CHECK (length(key) = 32),
    state TEXT NOT NULL CHECK (state IN ('running', 'ended')),
    -- A RunSummary, as lists show it.
    summary TEXT NOT NULL,
    -- Counts up over all runs, whenever one starts or ends, so that lists can be followed.
    changed INTEGER NOT NULL UNIQUE,
    pipedef TEXT NOT NULL
) STRICT;

CREATE INDEX run_by_state ON run (state);

CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run (number),
    seq INTEGER NOT NULL CHECK (seq > 0),
    -- A RunEvent, exactly as readers get it.
    event TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- The pipedef and the modules of its folder, as they were when the run began: what it executes to its end.
CREATE TABLE pipedef_file (
    run INTEGER NOT NULL REFERENCES run (number),
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;

-- Of a browser's session only the hash of what its cookie holds.
CREATE TABLE session (
    cookie_sha256 TEXT PRIMARY KEY,
    last_seen_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
