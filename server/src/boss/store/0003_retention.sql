-- Old runs are removed: a run at a time, in small steps, each of which a crash may follow.

-- 1: no list has it any more, and what there is of it is being removed.
ALTER TABLE run ADD COLUMN removing INTEGER NOT NULL DEFAULT 0 CHECK (removing IN (0, 1));

-- What a run takes on disk with its output; null until it was measured since it last changed.
ALTER TABLE run ADD COLUMN size_bytes INTEGER;

-- Which was the first to end; and what all of them take, which are not measured, and which are being removed.
CREATE INDEX run_by_end ON run (state, changed) WHERE removing = 0;
CREATE INDEX run_by_size ON run (removing, size_bytes);

-- The latest removals, in the same count of changes as `run`: those who follow lists are told of them.
CREATE TABLE removed_run (
    changed INTEGER PRIMARY KEY,
    run INTEGER NOT NULL
) STRICT;
