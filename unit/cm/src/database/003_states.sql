-- States of instances: what the cloud has, what it was sent since, and what it sent that is not written yet.
CREATE TABLE states (
    ident TEXT PRIMARY KEY,
    accepted TEXT,
    reported TEXT,
    pending BLOB
) STRICT;
