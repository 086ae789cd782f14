-- The record of weir, version 1. Applied with the configured database as the current one:
-- by the gateway at start, or by hand with  clickhouse-client --database weir < 0001_record.sql
--
-- Every table begins with the columns of its producer. (host_id, boot_id, seq) names a record in
-- the whole fleet: seq counts all tables of one gateway start without a gap, so that a missing
-- number is a missing record. expires_at is decided where the record is made; a part is dropped
-- when all its rows have expired. docs/schema.md describes the columns.

-- One row per redirected connection, written when it closes.
CREATE TABLE IF NOT EXISTS flows
(
    host_id       LowCardinality(String),
    boot_id       UUID,
    seq           UInt64 CODEC(Delta, ZSTD(1)),
    org           LowCardinality(String),
    project       LowCardinality(String),
    ts            DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at    DateTime('UTC') CODEC(Delta, ZSTD(1)),
    flow_id       UUID,
    session_id    UUID,
    job_id        String CODEC(ZSTD(1)),
    exec_id       String CODEC(ZSTD(1)),
    identity      LowCardinality(String),
    identity_src  LowCardinality(String),
    pid           UInt32 CODEC(T64, ZSTD(1)),
    process       LowCardinality(String),
    exe           LowCardinality(String),
    exe_dev       UInt32 CODEC(T64, ZSTD(1)),
    exe_ino       UInt64 CODEC(T64, ZSTD(1)),
    comm          LowCardinality(String),
    argv          Array(String) CODEC(ZSTD(1)),
    ancestors     Array(String) CODEC(ZSTD(1)),
    uid           UInt32 CODEC(T64, ZSTD(1)),
    gid           UInt32 CODEC(T64, ZSTD(1)),
    cgroup_id     UInt64 CODEC(T64, ZSTD(1)),
    cgroup        String CODEC(ZSTD(1)),
    netns_cookie  UInt64 CODEC(T64, ZSTD(1)),
    socket_cookie UInt64 CODEC(T64, ZSTD(1)),
    dst_ip        IPv6,
    dst_port      UInt16,
    sni           LowCardinality(String),
    alpn          LowCardinality(String),
    mode          LowCardinality(String),
    outcome       LowCardinality(String),
    fault         LowCardinality(String),
    detail        String CODEC(ZSTD(1)),
    up_bytes      UInt64 CODEC(T64, ZSTD(1)),
    down_bytes    UInt64 CODEC(T64, ZSTD(1)),
    exchanges     UInt32 CODEC(T64, ZSTD(1)),
    dur_us        UInt64 CODEC(T64, ZSTD(1)),
    INDEX ix_flow flow_id    TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_sess session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_exec exec_id    TYPE bloom_filter(0.01)  GRANULARITY 1,
    INDEX ix_ts   ts         TYPE minmax              GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(ts)
ORDER BY (org, project, job_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per request and its response. Bodies are in their own table.
CREATE TABLE IF NOT EXISTS exchanges
(
    host_id        LowCardinality(String),
    boot_id        UUID,
    seq            UInt64 CODEC(Delta, ZSTD(1)),
    org            LowCardinality(String),
    project        LowCardinality(String),
    ts             DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at     DateTime('UTC') CODEC(Delta, ZSTD(1)),
    exchange_id    UUID,
    flow_id        UUID,
    session_id     UUID,
    job_id         String CODEC(ZSTD(1)),
    exec_id        String CODEC(ZSTD(1)),
    identity       LowCardinality(String),
    pid            UInt32 CODEC(T64, ZSTD(1)),
    process        LowCardinality(String),
    class          Enum8('http' = 1, 'llm' = 2, 'git' = 3, 'registry' = 4, 'tunnel' = 5, 'mcp' = 6),
    scheme         LowCardinality(String),
    dst_host       LowCardinality(String),
    dst_ip         IPv6,
    dst_port       UInt16,
    proto          LowCardinality(String),
    upstream_proto LowCardinality(String),
    method         LowCardinality(String),
    path           String CODEC(ZSTD(1)),
    query_masked   String CODEC(ZSTD(1)),
    status         UInt16,
    decision       Enum8('allow' = 1, 'deny' = 2, 'hold' = 3, 'mask' = 4, 'observe' = 5, 'error' = 6),
    rule_id        LowCardinality(String),
    outcome        LowCardinality(String),
    fault          LowCardinality(String),
    detail         String CODEC(ZSTD(1)),
    req_bytes      UInt64 CODEC(T64, ZSTD(1)),
    resp_bytes     UInt64 CODEC(T64, ZSTD(1)),
    ttfb_us        UInt64 CODEC(T64, ZSTD(1)),
    dur_us         UInt64 CODEC(T64, ZSTD(1)),
    req_headers    Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    resp_headers   Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    req_sha256     FixedString(32) CODEC(NONE),
    resp_sha256    FixedString(32) CODEC(NONE),
    req_body       Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3),
    resp_body      Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3),
    chunk_us       Array(UInt64) CODEC(T64, ZSTD(1)),
    chunk_bytes    Array(UInt64) CODEC(T64, ZSTD(1)),
    INDEX ix_exch exchange_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_flow flow_id     TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_sess session_id  TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_exec exec_id     TYPE bloom_filter(0.01)  GRANULARITY 1,
    INDEX ix_ts   ts          TYPE minmax              GRANULARITY 1,
    INDEX ix_host dst_host    TYPE set(256)            GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(ts)
ORDER BY (org, project, job_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- Recorded bodies, in pieces. Rows of one session are adjacent and the compression window is
-- long, because conversations repeat themselves: worth three times the disk.
CREATE TABLE IF NOT EXISTS bodies
(
    host_id          LowCardinality(String),
    boot_id          UUID,
    seq              UInt64 CODEC(Delta, ZSTD(1)),
    org              LowCardinality(String),
    project          LowCardinality(String),
    ts               DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    exchange_id      UUID,
    session_id       UUID,
    job_id           String CODEC(ZSTD(1)),
    dir              Enum8('request' = 1, 'response' = 2),
    chunk            UInt32,
    chunks           UInt32,
    content_type     LowCardinality(String),
    content_encoding LowCardinality(String),
    -- Only here: every column with such blocks would cost 16 MiB of memory per insert and merge.
    body             String CODEC(ZSTD(3, 24))
        SETTINGS (min_compress_block_size = 4194304, max_compress_block_size = 16777216),
    INDEX ix_exch exchange_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(ts)
ORDER BY (org, project, job_id, session_id, ts, exchange_id, dir, chunk)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1,
         index_granularity = 1024, index_granularity_bytes = 10485760;

-- Loss that weir knows of.
CREATE TABLE IF NOT EXISTS gaps
(
    host_id     LowCardinality(String),
    boot_id     UUID,
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    org         LowCardinality(String),
    project     LowCardinality(String),
    ts          DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at  DateTime('UTC') CODEC(Delta, ZSTD(1)),
    cause       Enum8('spool_full' = 1, 'crash' = 2, 'restart' = 3, 'bypass' = 4, 'body_cap' = 5, 'parse_error' = 6, 'kernel_drop' = 7, 'quarantine' = 8),
    gap_boot_id UUID,
    first_seq   UInt64,
    last_seq    UInt64,
    records     UInt64,
    bytes       UInt64,
    detail      String CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (host_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- Liveness, and the counters that turn silence into a finding.
CREATE TABLE IF NOT EXISTS heartbeats
(
    host_id      LowCardinality(String),
    boot_id      UUID,
    seq          UInt64 CODEC(Delta, ZSTD(1)),
    org          LowCardinality(String),
    project      LowCardinality(String),
    ts           DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at   DateTime('UTC') CODEC(Delta, ZSTD(1)),
    version      LowCardinality(String),
    active_flows UInt32 CODEC(T64, ZSTD(1)),
    spool_bytes  UInt64 CODEC(T64, ZSTD(1)),
    counters     Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)),
    rss_bytes    UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (host_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- What happened, in order: every exchange, every flow that was not simply decrypted and fine,
-- and known loss.
CREATE VIEW IF NOT EXISTS timeline AS
SELECT
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    'exchange' AS event,
    multiIf(fault = 'internal', 'error', outcome != 'ok' OR decision = 'deny' OR status >= 500, 'warn', 'info') AS severity,
    concat(
        method, ' ', scheme, '://', dst_host,
        if(dst_port = if(scheme = 'http', 80, 443), '', concat(':', toString(dst_port))), path,
        if(query_masked = '', '', concat('?', query_masked)),
        ' -> ', if(status = 0, outcome, toString(status)),
        if(outcome = 'ok' OR status = 0, '', concat(' (', outcome, ')')),
        ', ', formatReadableSize(req_bytes), ' up, ', formatReadableSize(resp_bytes), ' down, ',
        toString(intDiv(dur_us, 1000)), ' ms') AS summary,
    exchange_id, flow_id, toString(dst_host) AS dst_host
FROM exchanges
UNION ALL
SELECT
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    'flow' AS event,
    multiIf(fault = 'internal', 'error', outcome != 'ok', 'warn', 'info') AS severity,
    concat(
        mode, ' ', if(sni = '', replaceOne(toString(dst_ip), '::ffff:', ''), toString(sni)), ':', toString(dst_port),
        ' -> ', outcome, if(detail = '', '', concat(' (', detail, ')')),
        ', ', formatReadableSize(up_bytes), ' up, ', formatReadableSize(down_bytes), ' down, ',
        toString(intDiv(dur_us, 1000)), ' ms') AS summary,
    toUUID('00000000-0000-0000-0000-000000000000') AS exchange_id, flow_id,
    if(sni = '', replaceOne(toString(dst_ip), '::ffff:', ''), toString(sni)) AS dst_host
FROM flows
WHERE mode != 'terminated' OR outcome != 'ok'
UNION ALL
SELECT
    ts, org, project, '' AS job_id, toUUID('00000000-0000-0000-0000-000000000000') AS session_id,
    '' AS exec_id, toUInt32(0) AS pid, '' AS process, '' AS identity, host_id, boot_id, seq,
    'gap' AS event,
    if(cause IN ('restart', 'body_cap'), 'warn', 'error') AS severity,
    concat(
        toString(cause), ': ', if(records = 0, 'an unknown number of', toString(records)), ' records lost',
        if(detail = '', '', concat(', ', detail))) AS summary,
    toUUID('00000000-0000-0000-0000-000000000000') AS exchange_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS flow_id, '' AS dst_host
FROM gaps;

-- One row per session. Bytes are those of closed flows, on the downstream wire.
CREATE VIEW IF NOT EXISTS session_summary AS
SELECT
    session_id, any(org) AS org, any(project) AS project, any(host_id) AS host_id,
    any(job_id) AS job_id, any(identity) AS identity,
    arraySort(groupUniqArray(process)) AS processes,
    min(ts) AS started, max(ended) AS last,
    sum(is_flow) AS flows, sum(is_exchange) AS exchanges,
    sum(up_bytes) AS up_bytes, sum(down_bytes) AS down_bytes, sum(is_error) AS errors
FROM
(
    SELECT
        session_id, org, project, host_id, job_id, identity, process, ts,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(1) AS is_flow, toUInt64(0) AS is_exchange, up_bytes, down_bytes,
        toUInt64(outcome != 'ok') AS is_error
    FROM flows
    UNION ALL
    SELECT
        session_id, org, project, host_id, job_id, identity, process, ts,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(0) AS is_flow, toUInt64(1) AS is_exchange,
        toUInt64(0) AS up_bytes, toUInt64(0) AS down_bytes,
        toUInt64(outcome != 'ok') AS is_error
    FROM exchanges
)
GROUP BY session_id;
