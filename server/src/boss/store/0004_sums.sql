-- SQLite keeps no sum of what it stores: where a disk makes another of a bit, another text is read, as if it had been
-- written. So rows carry sums of their own. They are null in what was written before this step.

-- Of the event, its run and its place.
ALTER TABLE event ADD COLUMN sum INTEGER;

-- The latest event that changed the state: of a run that has ended, its last.
ALTER TABLE run ADD COLUMN last_seq INTEGER;

-- Of the texts that the run executes.
ALTER TABLE run ADD COLUMN code_sum INTEGER;

-- Of everything else in the row.
ALTER TABLE run ADD COLUMN sum INTEGER;
