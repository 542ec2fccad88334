//! The schema, as migrations. Never edit an entry that has been released: append.

pub(crate) const SCRIPTS: &[&str] = &[
    r"
CREATE TABLE companies (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    title      TEXT NOT NULL,
    UNIQUE (kind, title)
) STRICT;

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    role       TEXT NOT NULL,
    company_id TEXT NOT NULL REFERENCES companies (id),
    username   TEXT NOT NULL,
    email      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (company_id, role, username)
) STRICT;

-- Only the hash of a token is kept. A used token stays until it expires, so that a repeated call with the
-- same key gets the same certificate.
CREATE TABLE enrolment_tokens (
    hash       BLOB PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL,
    used_key   BLOB,
    chain      TEXT
) STRICT;

CREATE TABLE units (
    id                     TEXT PRIMARY KEY,
    system_uid             TEXT NOT NULL UNIQUE,
    status                 TEXT NOT NULL,
    company_id             TEXT NOT NULL REFERENCES companies (id),
    model_name             TEXT NOT NULL,
    model_version          TEXT NOT NULL,
    provisioning_software  TEXT NOT NULL,
    sealed_secrets         BLOB,
    subject_id             TEXT NOT NULL,
    created_at             INTEGER NOT NULL,
    -- Counts every visible change of the Unit.
    revision               INTEGER NOT NULL DEFAULT 1,
    -- Counts every change of what is asked of the Unit.
    target                 INTEGER NOT NULL DEFAULT 1,
    -- Number of the newest session; a session with a lower number has been replaced.
    session                INTEGER NOT NULL DEFAULT 0,
    online_status          TEXT NOT NULL DEFAULT 'Offline',
    online_changed_at      INTEGER
) STRICT;

CREATE TABLE nodes (
    unit_id   TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    node_id   TEXT NOT NULL,
    node_type TEXT NOT NULL,
    name      TEXT NOT NULL,
    is_main   INTEGER NOT NULL,
    status    TEXT NOT NULL,
    info      TEXT NOT NULL,
    PRIMARY KEY (unit_id, node_id)
) STRICT;

-- The record of issued certificates. It decides who may do what; subjects of certificates never do.
CREATE TABLE certificates (
    issuer     BLOB NOT NULL,
    serial     TEXT NOT NULL,
    user_id    TEXT REFERENCES users (id) ON DELETE SET NULL,
    unit_id    TEXT REFERENCES units (id) ON DELETE SET NULL,
    cert_type  TEXT NOT NULL,
    node_id    TEXT NOT NULL,
    key_hash   BLOB NOT NULL,
    chain      TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    issued_at  INTEGER NOT NULL,
    revoked_at INTEGER,
    PRIMARY KEY (issuer, serial)
) STRICT;
CREATE INDEX certificates_of_unit ON certificates (unit_id);

CREATE TABLE blobs (
    digest      TEXT PRIMARY KEY,
    size        INTEGER NOT NULL,
    served_size INTEGER NOT NULL,
    sha3        TEXT NOT NULL,
    sealed_key  BLOB NOT NULL,
    iv          BLOB NOT NULL,
    signature   BLOB NOT NULL,
    chain_name  TEXT NOT NULL,
    signed_at   INTEGER NOT NULL,
    requests    INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE items (
    id         TEXT PRIMARY KEY,
    company_id TEXT NOT NULL REFERENCES companies (id),
    type       TEXT NOT NULL,
    codename   TEXT NOT NULL,
    title      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (company_id, type, codename)
) STRICT;

CREATE TABLE versions (
    item_id      TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    version      TEXT NOT NULL,
    index_digest TEXT NOT NULL REFERENCES blobs (digest),
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (item_id, version)
) STRICT;

-- All blobs of a version: a Unit may ask for these and no others.
CREATE TABLE version_blobs (
    item_id TEXT NOT NULL,
    version TEXT NOT NULL,
    digest  TEXT NOT NULL REFERENCES blobs (digest),
    PRIMARY KEY (item_id, version, digest),
    FOREIGN KEY (item_id, version) REFERENCES versions (item_id, version) ON DELETE CASCADE
) STRICT;
CREATE INDEX versions_of_blob ON version_blobs (digest);

CREATE TABLE assignments (
    unit_id       TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    item_id       TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    version       TEXT NOT NULL,
    num_instances INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    labels        TEXT NOT NULL,
    PRIMARY KEY (unit_id, item_id)
) STRICT;
CREATE INDEX assignments_of_item ON assignments (item_id);

CREATE TABLE unit_status (
    unit_id     TEXT PRIMARY KEY REFERENCES units (id) ON DELETE CASCADE,
    -- Merged state as JSON.
    merged      TEXT NOT NULL,
    observed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE desired (
    unit_id  TEXT PRIMARY KEY REFERENCES units (id) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    payload  TEXT NOT NULL,
    sent_at  INTEGER,
    acked_at INTEGER
) STRICT;

-- Newest messages of a kind per Unit, bounded.
CREATE TABLE unit_events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    unit_id TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    body    TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_unit ON unit_events (unit_id, kind, id);

CREATE TABLE audit (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
",
    r"
-- A Unit whose sensitive messages go as envelopes that only its offline key opens.
ALTER TABLE units ADD COLUMN enveloped INTEGER NOT NULL DEFAULT 0;
-- Number of the newest row that was ever put into the Unit's outbox.
ALTER TABLE units ADD COLUMN outbox INTEGER NOT NULL DEFAULT 0;
-- A certificate that has a successor is revoked at this time at the latest.
ALTER TABLE certificates ADD COLUMN revoke_at INTEGER;
CREATE INDEX certificates_to_revoke ON certificates (revoke_at) WHERE revoke_at IS NOT NULL;

-- Messages of Units that have taken effect, the newest of each Unit.
CREATE TABLE received_txns (
    unit_id TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    txn     TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    PRIMARY KEY (unit_id, txn)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX received_in_order ON received_txns (unit_id, seq);

-- Messages to Units that must not be lost, until they are acknowledged.
CREATE TABLE outbox (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    unit_id        TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    txn            TEXT NOT NULL UNIQUE,
    kind           TEXT NOT NULL,
    correlation_id TEXT,
    -- What a newer message with the same slot replaces.
    slot           TEXT,
    -- JSON, sealed when it holds secrets.
    body           BLOB NOT NULL,
    sealed         INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    sent_at        INTEGER,
    -- waiting or parked.
    state          TEXT NOT NULL,
    reason         TEXT
) STRICT;
CREATE INDEX outbox_of_unit ON outbox (unit_id, seq);

CREATE TABLE log_requests (
    id          TEXT PRIMARY KEY,
    unit_id     TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    seq         INTEGER NOT NULL,
    log_type    TEXT NOT NULL,
    filter      TEXT NOT NULL,
    upload      TEXT NOT NULL,
    token_hash  BLOB,
    state       TEXT NOT NULL,
    reason      TEXT,
    bytes       INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    deadline    INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX logs_of_unit ON log_requests (unit_id, seq);
CREATE INDEX logs_waiting ON log_requests (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE log_nodes (
    request_id  TEXT NOT NULL REFERENCES log_requests (id) ON DELETE CASCADE,
    node_id     TEXT NOT NULL,
    state       TEXT NOT NULL,
    parts_count INTEGER NOT NULL DEFAULT 0,
    reason      TEXT,
    PRIMARY KEY (request_id, node_id)
) STRICT;

-- The bytes lie in files, named by request, node and part.
CREATE TABLE log_parts (
    request_id TEXT NOT NULL REFERENCES log_requests (id) ON DELETE CASCADE,
    node_id    TEXT NOT NULL,
    part       INTEGER NOT NULL,
    file       TEXT NOT NULL UNIQUE,
    bytes      INTEGER NOT NULL,
    PRIMARY KEY (request_id, node_id, part)
) STRICT;

CREATE TABLE states (
    unit_id           TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    item              TEXT NOT NULL,
    subject           TEXT NOT NULL,
    instance          INTEGER NOT NULL,
    checksum          TEXT NOT NULL,
    content           TEXT NOT NULL,
    changed_at        INTEGER NOT NULL,
    -- unit or cloud.
    source            TEXT NOT NULL,
    previous_checksum TEXT,
    previous          TEXT,
    previous_at       INTEGER,
    -- Delivery of an update: none, waiting, delivered or failed.
    delivery          TEXT NOT NULL,
    txn               TEXT,
    reason            TEXT,
    -- The last state that was not accepted.
    rejected_at       INTEGER,
    rejected          TEXT,
    PRIMARY KEY (unit_id, item, subject, instance)
) STRICT;

CREATE TABLE env_overrides (
    unit_id        TEXT PRIMARY KEY REFERENCES units (id) ON DELETE CASCADE,
    items          TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    -- waiting, delivered or failed.
    state          TEXT NOT NULL,
    reason         TEXT,
    set_at         INTEGER NOT NULL
) STRICT;

CREATE TABLE env_statuses (
    unit_id  TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    item     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    instance INTEGER NOT NULL,
    name     TEXT NOT NULL,
    error    TEXT,
    at       INTEGER NOT NULL,
    PRIMARY KEY (unit_id, item, subject, instance, name)
) STRICT;

CREATE TABLE renewals (
    id          TEXT PRIMARY KEY,
    unit_id     TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    state       TEXT NOT NULL,
    reason      TEXT,
    created_at  INTEGER NOT NULL,
    deadline    INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX renewals_of_unit ON renewals (unit_id, created_at);
CREATE INDEX renewals_waiting ON renewals (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE renewal_certificates (
    renewal_id TEXT NOT NULL REFERENCES renewals (id) ON DELETE CASCADE,
    node_id    TEXT NOT NULL,
    cert_type  TEXT NOT NULL,
    old_serial TEXT,
    new_serial TEXT,
    state      TEXT NOT NULL,
    reason     TEXT,
    PRIMARY KEY (renewal_id, node_id, cert_type)
) STRICT;

CREATE TABLE node_tasks (
    id              TEXT PRIMARY KEY,
    unit_id         TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    node_id         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    state           TEXT NOT NULL,
    reason          TEXT,
    -- Needed for the second half of provisioning; forgotten at the end.
    sealed_password BLOB,
    created_at      INTEGER NOT NULL,
    deadline        INTEGER,
    finished_at     INTEGER
) STRICT;
CREATE INDEX tasks_of_unit ON node_tasks (unit_id, created_at);
CREATE INDEX tasks_waiting ON node_tasks (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE node_wishes (
    unit_id TEXT NOT NULL REFERENCES units (id) ON DELETE CASCADE,
    node_id TEXT NOT NULL,
    -- paused or provisioned.
    state   TEXT NOT NULL,
    set_at  INTEGER NOT NULL,
    PRIMARY KEY (unit_id, node_id)
) STRICT;

CREATE TABLE unit_configs (
    unit_id  TEXT PRIMARY KEY REFERENCES units (id) ON DELETE CASCADE,
    version  TEXT NOT NULL,
    document TEXT NOT NULL,
    set_at   INTEGER NOT NULL
) STRICT;
",
    r"
-- An operator's leave for one recovery of a Unit. Only the hash is kept. A used one stays until it expires,
-- so that a repeated request has the answer of the first.
CREATE TABLE recovery_tokens (
    unit_id    TEXT PRIMARY KEY REFERENCES units (id) ON DELETE CASCADE,
    hash       BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    used_for   BLOB
) STRICT;
",
];
