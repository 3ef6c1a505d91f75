-- The tables of commit 60054b2, the first one, as SQLAlchemy made them in PostgreSQL. SQLite accepts the same text.
CREATE TABLE deliveries (
    prediction_id VARCHAR(26) NOT NULL,
    event VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    last_status INTEGER,
    error TEXT,
    delivered_at BIGINT,
    PRIMARY KEY (prediction_id, event)
);
CREATE TABLE events (
    prediction_id VARCHAR(26) NOT NULL,
    seq INTEGER NOT NULL,
    kind VARCHAR(8) NOT NULL,
    data TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (prediction_id, seq)
);
CREATE TABLE files (
    id VARCHAR(64) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    md5 VARCHAR(32) NOT NULL,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    metadata JSON NOT NULL,
    kind VARCHAR(8) NOT NULL,
    prediction_id VARCHAR(26),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX ix_files_expires_at ON files (expires_at);
CREATE INDEX ix_files_prediction_id ON files (prediction_id);
CREATE INDEX ix_files_sha256 ON files (sha256);
CREATE TABLE predictions (
    id VARCHAR(26) NOT NULL,
    created_at BIGINT NOT NULL,
    model VARCHAR(256) NOT NULL,
    version VARCHAR(256) NOT NULL,
    source VARCHAR(8) NOT NULL,
    input JSON NOT NULL,
    output JSON,
    logs TEXT NOT NULL,
    error TEXT,
    status VARCHAR(16) NOT NULL,
    metrics JSON,
    started_at BIGINT,
    completed_at BIGINT,
    deadline BIGINT,
    webhook TEXT,
    webhook_events_filter JSON,
    revision INTEGER NOT NULL,
    data_removed BOOLEAN NOT NULL,
    stream_key VARCHAR(64),
    worker TEXT,
    attempts INTEGER NOT NULL,
    callback_key VARCHAR(64) NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (stream_key)
);
CREATE INDEX due ON predictions (deadline) WHERE deadline IS NOT NULL AND status IN ('starting', 'processing');
CREATE INDEX ended ON predictions (data_removed, completed_at);
CREATE INDEX newest ON predictions (created_at, id);
CREATE INDEX waiting ON predictions (status, model);
CREATE TABLE secrets (
    name VARCHAR(64) NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE servers (
    id VARCHAR(128) NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

-- What its server recorded: a prediction with a file and a stream, an upload, and the secret that signs webhooks.
INSERT INTO predictions VALUES (
    'b4yw1gz1e5rm00cttcdbvkmp1r', 1795314000000000, 'test/model',
    '1111111111111111111111111111111111111111111111111111111111111111', 'api', '{"text": "old"}',
    '"/v1/delivery/mkn8zft66q9s74yqmca9xwc7wwk8c4e2zg1w4bbkbxcs6xf6zsxg/output.txt"', 'one line', NULL, 'succeeded',
    '{"predict_time": 2.0}', 1795314001000000, 1795314003000000, NULL, NULL, NULL, 3, false,
    'c2m9y4q8v3k7x1n5b6z0d2f4g8h3j7k1m5n9p2q6r0s4t8v3w7xy', NULL, 1, 'key'
);
INSERT INTO events VALUES ('b4yw1gz1e5rm00cttcdbvkmp1r', 0, 'done', '{}', 1795314003000000);
INSERT INTO files VALUES (
    'mkn8zft66q9s74yqmca9xwc7wwk8c4e2zg1w4bbkbxcs6xf6zsxg',
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad', '900150983cd24fb0d6963f7d28e17f72',
    'output.txt', 'text/plain', 3, '{}', 'output', 'b4yw1gz1e5rm00cttcdbvkmp1r', 1795314003000000, 4102444800000000
);
INSERT INTO files VALUES (
    '7kh2m5n9p2q6r0s4t8v3w7xyc2m9y4q8v3k7x1n5b6z0d2f4g8h3',
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad', '900150983cd24fb0d6963f7d28e17f72',
    'notes.txt', 'text/plain', 3, '{"a": 1}', 'upload', NULL, 1795314003000000, 4102444800000000
);
INSERT INTO secrets VALUES ('webhooks', 'whsec_b2xk');
