-- What a run needs in order to go on after a restart, beyond its events and texts.

-- The interpreter that discovery ran in.
ALTER TABLE run ADD COLUMN python TEXT;

-- Modules of the pipedef's folder that only a task imported: the first text that the run executed.
CREATE TABLE imported_file (
    run INTEGER NOT NULL REFERENCES run (number),
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;

-- Steps that nobody waits for any more, until their worker has been told to end them.
CREATE TABLE orphan (
    step TEXT PRIMARY KEY,
    -- As the pipedef names it.
    worker TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
