-- Times are INTEGER microseconds since 1970-01-01 UTC, set by the server; a TEXT
-- time is one that somebody signed and is kept as it came.

-- +goose Up
CREATE TABLE users (
    user_id    TEXT    NOT NULL PRIMARY KEY CHECK (length(user_id) BETWEEN 1 AND 63),
    username   TEXT    NOT NULL,
    public_key BLOB    NOT NULL CHECK (length(public_key) = 32),
    roles      TEXT    NOT NULL, -- JSON array of text
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE encryption_keys (
    user_id           TEXT    NOT NULL REFERENCES users (user_id),
    version           INTEGER NOT NULL CHECK (version >= 1),
    x25519_public_key BLOB    NOT NULL CHECK (length(x25519_public_key) = 32),
    created_at        TEXT    NOT NULL,
    signature         BLOB    NOT NULL CHECK (length(signature) = 64),
    published_at      INTEGER NOT NULL,
    PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

CREATE TABLE mailboxes (
    user_id   TEXT    NOT NULL PRIMARY KEY REFERENCES users (user_id),
    last_seq  INTEGER NOT NULL DEFAULT 0,
    acked_seq INTEGER NOT NULL DEFAULT 0 CHECK (acked_seq <= last_seq)
) WITHOUT ROWID;

-- from_user references nothing: a sender need not be a registered user.
CREATE TABLE messages (
    id                INTEGER PRIMARY KEY,
    from_user         TEXT    NOT NULL,
    to_user           TEXT    NOT NULL REFERENCES users (user_id),
    message_id        TEXT    NOT NULL CHECK (length(message_id) BETWEEN 1 AND 64),
    seq               INTEGER NOT NULL CHECK (seq >= 1),
    content           TEXT    NOT NULL,
    encrypted_key     TEXT    NOT NULL,
    encryption_nonce  TEXT    NOT NULL,
    key_version       INTEGER NOT NULL,
    timestamp         TEXT    NOT NULL,
    signature         TEXT    NOT NULL,
    digest            BLOB    NOT NULL CHECK (length(digest) = 32),
    server_time       INTEGER NOT NULL,
    status            TEXT    NOT NULL DEFAULT 'stored' CHECK (status IN ('stored', 'delivered')),
    acked_at          INTEGER CHECK ((acked_at IS NULL) = (status = 'stored')),
    receipt_timestamp TEXT,
    receipt_signature TEXT,
    UNIQUE (to_user, seq),
    UNIQUE (from_user, message_id)
);
CREATE INDEX messages_delivered ON messages (acked_at, server_time) WHERE acked_at IS NOT NULL;

CREATE TABLE logins (
    session_id TEXT    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL REFERENCES users (user_id),
    issued_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ip_address TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    user_agent TEXT    NOT NULL
) WITHOUT ROWID;
CREATE INDEX logins_expiry ON logins (expires_at);

CREATE TABLE challenges (
    digest     BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX challenges_expiry ON challenges (expires_at);

-- A revocation references nothing, so that none can ever be refused.
CREATE TABLE revocations (
    session_id TEXT    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX revocations_expiry ON revocations (expires_at);

CREATE TABLE sessions (
    id                INTEGER PRIMARY KEY,
    conn_id           TEXT    NOT NULL UNIQUE,
    session_id        TEXT    NOT NULL,
    user_id           TEXT    NOT NULL REFERENCES users (user_id),
    connected_at      INTEGER NOT NULL,
    disconnected_at   INTEGER,
    messages_sent     INTEGER NOT NULL DEFAULT 0,
    messages_received INTEGER NOT NULL DEFAULT 0,
    ip_address        TEXT    NOT NULL,
    user_agent        TEXT    NOT NULL
);
CREATE INDEX sessions_open ON sessions (id) WHERE disconnected_at IS NULL;

CREATE TABLE command_log (
    id           INTEGER PRIMARY KEY,
    request_id   TEXT    NOT NULL,
    command      TEXT    NOT NULL,
    plugin       TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    session_id   TEXT    NOT NULL,
    surface      TEXT    NOT NULL,
    ip_address   TEXT    NOT NULL,
    outcome      TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    duration_us  INTEGER NOT NULL,
    params_bytes INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    params       BLOB
);
CREATE INDEX command_log_started ON command_log (started_at);

CREATE TABLE signed_commands (
    from_user  TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    digest     BLOB    NOT NULL CHECK (length(digest) = 32),
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (from_user, request_id)
) WITHOUT ROWID;
CREATE INDEX signed_commands_expiry ON signed_commands (expires_at);

CREATE TABLE plugin_kv (
    plugin     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    value      BLOB    NOT NULL,
    revision   INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (plugin, key)
);
CREATE INDEX plugin_kv_expiry ON plugin_kv (expires_at);

CREATE TABLE metrics (
    id          INTEGER PRIMARY KEY,
    metric_type TEXT    NOT NULL,
    metric_name TEXT    NOT NULL,
    value       REAL    NOT NULL,
    timestamp   INTEGER NOT NULL,
    metadata    TEXT
);
CREATE INDEX metrics_by_name ON metrics (metric_name, timestamp);

-- The one row that Store.Check counts up.
CREATE TABLE health (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL
);
INSERT INTO health (id, count) VALUES (1, 0);
