-- Transactions of the cloud that have taken effect: written together with the effect.
CREATE TABLE received (
    seq INTEGER PRIMARY KEY,
    txn TEXT NOT NULL UNIQUE
) STRICT;

-- Messages to the cloud that must not be lost: written together with what they tell.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY,
    txn TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    frame BLOB NOT NULL
) STRICT;

-- Accepted requests whose work takes long: gone when their answer is in the outbox.
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    txn TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    correlation_id TEXT,
    body TEXT NOT NULL
) STRICT;
