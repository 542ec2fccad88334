CREATE TABLE documents (
    name TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT;

CREATE TABLE items (
    id TEXT NOT NULL,
    version TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (id, version)
) STRICT;

CREATE TABLE instances (
    ident TEXT NOT NULL,
    version TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (ident, version)
) STRICT;

CREATE TABLE networks (
    owner TEXT PRIMARY KEY,
    subnet TEXT NOT NULL,
    vlan INTEGER NOT NULL
) STRICT;

CREATE TABLE network_hosts (
    owner TEXT NOT NULL REFERENCES networks (owner),
    node TEXT NOT NULL,
    ip TEXT NOT NULL,
    PRIMARY KEY (owner, node)
) STRICT;

CREATE TABLE network_instances (
    ident TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT;
