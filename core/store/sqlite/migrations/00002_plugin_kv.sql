-- One row for each plugin that ever wrote a key. last_revision only grows, so that
-- no revision is given twice; keys and bytes (of keys and values) are those of all
-- its rows in plugin_kv, expired ones among them.

-- +goose Up
CREATE TABLE plugin_kv_usage (
    plugin        TEXT    NOT NULL PRIMARY KEY,
    last_revision INTEGER NOT NULL CHECK (last_revision >= 0),
    keys          INTEGER NOT NULL CHECK (keys >= 0),
    bytes         INTEGER NOT NULL CHECK (bytes >= 0)
) WITHOUT ROWID;
INSERT INTO plugin_kv_usage (plugin, last_revision, keys, bytes)
    SELECT plugin, max(revision), count(*), sum(length(CAST(key AS BLOB)) + length(value)) FROM plugin_kv GROUP BY plugin;

DROP INDEX plugin_kv_expiry;
CREATE INDEX plugin_kv_expiry ON plugin_kv (plugin, expires_at) WHERE expires_at IS NOT NULL;
