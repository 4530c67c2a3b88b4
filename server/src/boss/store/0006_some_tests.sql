-- Whether the attempt ran only some tests of its task: what passed there has not passed among the others.

ALTER TABLE attempt_tests ADD COLUMN only_some INTEGER NOT NULL DEFAULT 0 CHECK (only_some IN (0, 1));
