-- What a replica keeps about its own verification, beside the rows it is about. Everything here is safe to read by hand.
DO $$ BEGIN
    -- IF NOT EXISTS would ask for the right to create it even where it exists.
    IF to_regnamespace('trickle') IS NULL THEN
        CREATE SCHEMA trickle;
    END IF;
END $$;

-- Every correction, written in the transaction that made it.
CREATE TABLE IF NOT EXISTS trickle.corrections (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    pipeline   text NOT NULL,
    table_name text NOT NULL,                 -- as the source calls it
    key        jsonb NOT NULL,                -- {"id": 42}
    kind       text NOT NULL CHECK (kind IN ('missing', 'mismatched', 'extra')),
    before     jsonb,                         -- NULL: there was no row
    after      jsonb,                         -- NULL: there is no row now
    trace_id   text,
    trace      text,                          -- what its trace is made of, until it is closed
    resync_id  text,
    closed_at  timestamptz,                   -- NULL: written, not yet confirmed
    outcome    text CHECK (outcome IN ('confirmed', 'superseded')),
    undone_at  timestamptz,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- when somebody last set out to confirm it
    key_text   text[] NOT NULL,               -- the key as it travels
    version    bigint NOT NULL                -- xmin of the row that was written
);
DO $$ BEGIN
    -- For a ledger from before corrections were traced.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.corrections'::regclass AND attname = 'trace' AND NOT attisdropped) THEN
        ALTER TABLE trickle.corrections ADD COLUMN trace text;
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS corrections_open ON trickle.corrections (checked_at) WHERE closed_at IS NULL;
CREATE INDEX IF NOT EXISTS corrections_at ON trickle.corrections (pipeline, at);
CREATE INDEX IF NOT EXISTS corrections_single ON trickle.corrections (pipeline, id) WHERE resync_id IS NULL; -- the last ones, behind however much a resync wrote

DO $$ BEGIN
    -- For a ledger from before corrections could be undone.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.corrections'::regclass AND attname = 'undone_version') THEN
        ALTER TABLE trickle.corrections ADD COLUMN undone_version bigint; -- xmin of the row that undoing it wrote
    END IF;
END $$;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.corrections'::regclass AND attname = 'found') THEN
        ALTER TABLE trickle.corrections ADD COLUMN found bigint; -- xmin of the row that it found; NULL: there was none, or it is not known
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS corrections_undone ON trickle.corrections (pipeline, table_name, key) WHERE undone_at IS NOT NULL;

-- Every range that a resync copied whole into a replica that had no row in it, written in the transaction that made it: in the place of a correction for
-- each of its rows, which all bear that transaction's xmin.
CREATE TABLE IF NOT EXISTS trickle.copies (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    pipeline   text NOT NULL,
    table_name text NOT NULL,                 -- as the source calls it
    lo         text[],                        -- keys over this, NULL: from the first
    hi         text[],                        -- up to this, NULL: to the last
    rows       bigint NOT NULL,
    version    bigint NOT NULL,               -- xmin of its rows
    undo       text NOT NULL,                 -- the statement that deletes those of its rows that nobody has written since
    resync_id  text NOT NULL,
    piece      integer NOT NULL,              -- of the resync's ranges
    closed_at  timestamptz,                   -- NULL: written, not yet confirmed
    undone_at  timestamptz,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp() -- when somebody last set out to confirm it
);
CREATE INDEX IF NOT EXISTS copies_open ON trickle.copies (resync_id, piece) WHERE closed_at IS NULL;

CREATE INDEX IF NOT EXISTS copies_at ON trickle.copies (pipeline, at);

-- How much has left the ledger for its age (detect.journal), so that totals go on: corrections and copied rows by kind, resyncs by scope and how they ended.
CREATE TABLE IF NOT EXISTS trickle.removed (
    pipeline   text NOT NULL,
    table_name text NOT NULL,                 -- empty: of all tables
    what       text NOT NULL,                 -- missing, mismatched, extra; full done, full failed, partial done, partial failed
    n          bigint NOT NULL,
    PRIMARY KEY (pipeline, table_name, what)
);

-- One row a pipeline: the source it is pinned to, the gate as last seen, the brake.
CREATE TABLE IF NOT EXISTS trickle.pipelines (
    pipeline         text PRIMARY KEY,
    source           text,
    source_read_at   timestamptz,             -- the newest message's read time, the source's clock
    gate_open        boolean NOT NULL DEFAULT false,
    gate_reason      text NOT NULL DEFAULT 'no message from the publisher yet',
    gate_lag         interval,
    gate_at          timestamptz,
    gate_sources     jsonb NOT NULL DEFAULT '[]', -- [{"source": "slot", "lag_seconds": 1.5, "reason": ""}]
    window_length    interval NOT NULL DEFAULT '10 minutes',
    cycle_length     interval NOT NULL DEFAULT '24 hours', -- in which the policy has everything verified
    brake_reason     text,                    -- NULL: the brake is off
    brake_at         timestamptz,
    brake_released_at timestamptz NOT NULL DEFAULT '-infinity',
    refused          bigint NOT NULL DEFAULT 0, -- unreadable or forged messages
    refused_reason   text,
    policy           jsonb,                   -- that the detector works by: {"since": ..., "version": ..., "refused": ...}; NULL: it never said
    journal_from     timestamptz NOT NULL DEFAULT '-infinity' -- what is older may have left the journal; all that is younger is there
);

DO $$ BEGIN
    -- For a ledger from before there was more than one way to know the lag.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.pipelines'::regclass AND attname = 'gate_sources') THEN
        ALTER TABLE trickle.pipelines ADD COLUMN gate_sources jsonb NOT NULL DEFAULT '[]';
    END IF;
    -- And before it told which policy is in force.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.pipelines'::regclass AND attname = 'policy') THEN
        ALTER TABLE trickle.pipelines ADD COLUMN policy jsonb;
    END IF;
    -- For one that kept every correction for ever.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.pipelines'::regclass AND attname = 'journal_from') THEN
        ALTER TABLE trickle.pipelines ADD COLUMN journal_from timestamptz NOT NULL DEFAULT '-infinity';
    END IF;
    -- For one from before it was reckoned how much may be drifted.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.pipelines'::regclass AND attname = 'cycle_length') THEN
        ALTER TABLE trickle.pipelines ADD COLUMN cycle_length interval NOT NULL DEFAULT '24 hours';
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS trickle.tables (
    pipeline        text NOT NULL,
    table_name      text NOT NULL,
    replica_name    text NOT NULL,
    digest          text NOT NULL DEFAULT 'record',
    paused          text NOT NULL DEFAULT '', -- why nothing is done about this table; empty: nothing stops it
    cycle           bigint NOT NULL DEFAULT 0,
    ranges          bigint NOT NULL DEFAULT 0, -- how many ranges the publisher cuts it into
    rows_verified   bigint NOT NULL DEFAULT 0,
    ranges_verified bigint NOT NULL DEFAULT 0,
    resolved        bigint NOT NULL DEFAULT 0,
    failed          bigint NOT NULL DEFAULT 0,
    last_failure    text,
    read_at         timestamptz NOT NULL DEFAULT '-infinity', -- when the source was read for the newest of what was compared
    PRIMARY KEY (pipeline, table_name)
);

DO $$ BEGIN
    -- For a ledger from before cycles could begin anew.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.tables'::regclass AND attname = 'read_at') THEN
        ALTER TABLE trickle.tables ADD COLUMN read_at timestamptz NOT NULL DEFAULT '-infinity';
    END IF;
END $$;

-- What the publisher says of tables that it does not scan. A table may stand here that was never compared, and so is in no other table.
CREATE TABLE IF NOT EXISTS trickle.unscanned (
    pipeline     text NOT NULL,
    table_name   text NOT NULL,
    replica_name text NOT NULL,
    reason       text NOT NULL,               -- empty: it is scanned again, as was said or as a range of it that was read later shows
    since        timestamptz NOT NULL,        -- when it began, the source's clock
    told         timestamptz NOT NULL,        -- when it was so as far as is known, the source's clock
    heard_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (pipeline, table_name)
);

-- When each range was last verified: the coverage, and what the window's ratio is taken of.
CREATE TABLE IF NOT EXISTS trickle.ranges (
    pipeline    text NOT NULL,
    table_name  text NOT NULL,
    range_id    bigint NOT NULL,
    lo          text[],
    hi          text[],
    cycle       bigint NOT NULL,
    rows        bigint NOT NULL,
    equal       boolean NOT NULL,
    verified_at timestamptz NOT NULL,
    PRIMARY KEY (pipeline, table_name, range_id)
);

-- Keys that differed when last looked at, with that sighting. "due" doubles as a lease: whoever takes a suspect pushes it.
CREATE TABLE IF NOT EXISTS trickle.suspects (
    pipeline        text NOT NULL,
    table_name      text NOT NULL,
    key             text[] NOT NULL,
    range_id        bigint NOT NULL,
    lo              text[],
    hi              text[],
    resync_id       text,
    first_seen      timestamptz NOT NULL DEFAULT clock_timestamp(),
    due             timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    through         timestamptz,
    replica_present boolean NOT NULL,
    replica_version bigint NOT NULL,
    replica_digest  bigint NOT NULL,
    source_present  boolean NOT NULL,
    source_version  bigint NOT NULL,
    source_digest   bigint NOT NULL,
    source_read_at  timestamptz,
    trace           text,                     -- what its correction's trace is to begin with
    PRIMARY KEY (pipeline, table_name, key)
);
DO $$ BEGIN
    -- For a ledger from before corrections were traced.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.suspects'::regclass AND attname = 'trace' AND NOT attisdropped) THEN
        ALTER TABLE trickle.suspects ADD COLUMN trace text;
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS suspects_due ON trickle.suspects (pipeline, due);

-- Proven discrepancies: the sliding window. One row a key, so that two detectors, or a message seen twice, count once.
CREATE TABLE IF NOT EXISTS trickle.discrepancies (
    pipeline   text NOT NULL,
    table_name text NOT NULL,
    key        text[] NOT NULL,
    kind       text NOT NULL,
    range_id   bigint NOT NULL,
    lo         text[],
    hi         text[],
    at         timestamptz NOT NULL,
    PRIMARY KEY (pipeline, table_name, key)
);
CREATE INDEX IF NOT EXISTS discrepancies_at ON trickle.discrepancies (pipeline, at);

-- Rows that are proven to differ and were left as they are, since the policy only wants reports (detect.action). A row goes from here once it was corrected, or
-- its range was compared and it does not differ any more.
CREATE TABLE IF NOT EXISTS trickle.reported (
    pipeline   text NOT NULL,
    table_name text NOT NULL,
    key        text[] NOT NULL,
    kind       text NOT NULL,
    range_id   bigint NOT NULL,
    cycle      bigint NOT NULL,                -- of the publisher, when it was last proven
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (pipeline, table_name, key)
);
CREATE INDEX IF NOT EXISTS reported_range ON trickle.reported (pipeline, table_name, range_id);

CREATE TABLE IF NOT EXISTS trickle.resyncs (
    id           text PRIMARY KEY,
    pipeline     text NOT NULL,
    scope        text NOT NULL CHECK (scope IN ('partial', 'full')),
    table_name   text NOT NULL,
    lo           text[],
    hi           text[],
    state        text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    reason       text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    approved_at  timestamptz,
    started_at   timestamptz,
    ended_at     timestamptz,
    planned      boolean NOT NULL DEFAULT false,
    rows         bigint NOT NULL DEFAULT 0,   -- rows looked at
    corrected    bigint NOT NULL DEFAULT 0,
    refused      bigint NOT NULL DEFAULT 0,   -- rows that the replica would not take
    failure      text
);

-- A resync's own cursor: its ranges and which of them are done. "leased_until" keeps two instances off one range.
CREATE TABLE IF NOT EXISTS trickle.resync_ranges (
    resync_id    text NOT NULL REFERENCES trickle.resyncs ON DELETE CASCADE,
    n            integer NOT NULL,
    lo           text[],
    hi           text[],
    done         boolean NOT NULL DEFAULT false,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    differing    bigint NOT NULL DEFAULT 0, -- rows that were not the same on both sides when they were looked at
    PRIMARY KEY (resync_id, n)
);

DO $$ BEGIN
    -- For a ledger from before a full pass told how many ranges agreed.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'trickle.resync_ranges'::regclass AND attname = 'differing') THEN
        ALTER TABLE trickle.resync_ranges ADD COLUMN differing bigint NOT NULL DEFAULT 0;
    END IF;
END $$;

-- How far Debezium is with the snapshot of a resync. "version" grows with every change, so that of two instances one finds it taken.
CREATE TABLE IF NOT EXISTS trickle.snapshots (
    resync_id   text PRIMARY KEY REFERENCES trickle.resyncs ON DELETE CASCADE,
    state       text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'signalled', 'started', 'paused', 'applying', 'sweeping', 'refused')),
    signal      text NOT NULL DEFAULT '',     -- id of the newest signal
    attempts    integer NOT NULL DEFAULT 0,   -- signals sent
    progress_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- when it last got on
    scan        text NOT NULL DEFAULT '',     -- how Debezium says the scan of the table ended
    rows        bigint NOT NULL DEFAULT 0,    -- rows that Debezium says it read
    through     timestamptz,                  -- the source's clock: what the replica must have applied before it is swept
    remaining   bigint NOT NULL DEFAULT 0,    -- rows that differed for certain when it was swept
    failure     text NOT NULL DEFAULT '',     -- why the last attempt came to nothing
    version     bigint NOT NULL DEFAULT 0
);

-- Restores from the base-line view. While one is open and not yet proving what it brought, nothing is corrected in this replica.
CREATE TABLE IF NOT EXISTS trickle.restores (
    id         text PRIMARY KEY,
    pipeline   text NOT NULL,
    set_name   text NOT NULL,
    source     text NOT NULL,
    state      text NOT NULL CHECK (state IN ('loading', 'loaded', 'playing', 'finishing', 'proving', 'done', 'failed', 'abandoned')),
    stopped    text NOT NULL DEFAULT '',      -- of a failed one: the state in which it failed
    failure    text NOT NULL DEFAULT '',
    arguments  jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    not_made   jsonb NOT NULL DEFAULT '[]'    -- indexes and constraints that could not be: [{"table": "cache.t", "name": "t_x", "sql": "ALTER TABLE ...", "error": "duplicate"}]
);
CREATE UNIQUE INDEX IF NOT EXISTS restores_open ON trickle.restores (pipeline) WHERE state NOT IN ('done', 'abandoned');

CREATE TABLE IF NOT EXISTS trickle.restore_tables (
    restore_id   text NOT NULL REFERENCES trickle.restores ON DELETE CASCADE,
    table_name   text NOT NULL,               -- as the source calls it
    replica_name text NOT NULL,
    created      boolean NOT NULL,            -- the restore made it, so it makes its indexes and constraints too
    indexed      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (restore_id, table_name)
);

-- The objects of a restore's set, each marked in the transaction that copied it in.
CREATE TABLE IF NOT EXISTS trickle.restore_ranges (
    restore_id text NOT NULL REFERENCES trickle.restores ON DELETE CASCADE,
    n          integer NOT NULL,
    table_name text NOT NULL,
    object     text NOT NULL,
    rows       bigint NOT NULL,
    bytes      bigint NOT NULL,
    done       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (restore_id, n)
);

-- How far the CDC's logs were played into this replica, written in the transaction of the rows: each partition's next offset, and where in the source's log its newest event stood.
CREATE TABLE IF NOT EXISTS trickle.read_points (
    pipeline   text NOT NULL,
    topic      text NOT NULL,
    topic_id   text NOT NULL,                 -- of this topic, and of no other that bears its name before or after; empty: not known
    partition  integer NOT NULL,              -- -1: the topic had none yet
    next       bigint NOT NULL,               -- offset of the next record
    commit_lsn pg_lsn,                        -- NULL: no event of it was played yet
    lsn        pg_lsn,
    source_at  timestamptz,                   -- the latest commit seen, the source's clock
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (pipeline, topic, partition)
);

-- The same of each table as a whole, and what was played into it.
CREATE TABLE IF NOT EXISTS trickle.played_tables (
    pipeline             text NOT NULL,
    table_name           text NOT NULL,       -- as the source calls it
    commit_lsn           pg_lsn,
    lsn                  pg_lsn,
    source_at            timestamptz,
    truncated_commit_lsn pg_lsn,              -- the newest truncation
    truncated_lsn        pg_lsn,
    truncated_at         timestamptz,
    events               bigint NOT NULL DEFAULT 0,
    incomplete           bigint NOT NULL DEFAULT 0, -- updates of rows that were not there, which the events did not hold in full
    PRIMARY KEY (pipeline, table_name)
);

-- Sets of the base-line view that were heard of: what the source's tables summed up to (rows, sum, digest) at a position in the CDC's logs. The newest few are kept.
CREATE TABLE IF NOT EXISTS trickle.baselines (
    pipeline text NOT NULL,
    set_name text NOT NULL,
    source   text NOT NULL,
    taken    timestamptz NOT NULL,                -- when the position was read, by the publisher's clock
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    manifest bytea NOT NULL,                      -- SHA-256 of the set's manifest
    position jsonb NOT NULL,
    tables   jsonb NOT NULL,
    PRIMARY KEY (pipeline, set_name)
);
