-- The record of weir, version 3: alarms, what somebody should look at though it became no flow.

-- One row per alarm, or per many equal ones (count). Columns of a process are as in flows; empty or
-- 0 where no process is concerned.
CREATE TABLE IF NOT EXISTS alarms
(
    host_id    LowCardinality(String),
    boot_id    UUID,
    seq        UInt64 CODEC(Delta, ZSTD(1)),
    org        LowCardinality(String),
    project    LowCardinality(String),
    ts         DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at DateTime('UTC') CODEC(Delta, ZSTD(1)),
    kind       LowCardinality(String),
    severity   LowCardinality(String),
    session_id UUID,
    job_id     String CODEC(ZSTD(1)),
    exec_id    String CODEC(ZSTD(1)),
    identity   LowCardinality(String),
    pid        UInt32 CODEC(T64, ZSTD(1)),
    start_ns   UInt64 CODEC(T64, ZSTD(1)),
    process    LowCardinality(String),
    exe        LowCardinality(String),
    exe_dev    UInt32 CODEC(T64, ZSTD(1)),
    exe_ino    UInt64 CODEC(T64, ZSTD(1)),
    comm       LowCardinality(String),
    argv       Array(String) CODEC(ZSTD(1)),
    ancestors  Array(String) CODEC(ZSTD(1)),
    uid        UInt32 CODEC(T64, ZSTD(1)),
    gid        UInt32 CODEC(T64, ZSTD(1)),
    cgroup_id  UInt64 CODEC(T64, ZSTD(1)),
    cgroup     String CODEC(ZSTD(1)),
    dst_ip     IPv6,
    dst_port   UInt16,
    proto      LowCardinality(String),
    count      UInt64 CODEC(T64, ZSTD(1)),
    detail     String CODEC(ZSTD(1)),
    INDEX ix_sess session_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_exec exec_id    TYPE bloom_filter(0.01)  GRANULARITY 1,
    INDEX ix_ts   ts         TYPE minmax              GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (org, project, job_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- As before, and alarms.
CREATE OR REPLACE VIEW timeline AS
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
    multiIf(fault = 'internal', 'error', outcome != 'ok' OR dns_check = 'mismatch', 'warn', 'info') AS severity,
    concat(
        mode, ' ', if(sni = '', replaceOne(toString(dst_ip), '::ffff:', ''), toString(sni)), ':', toString(dst_port),
        ' -> ', outcome, if(detail = '', '', concat(' (', detail, ')')),
        if(dns_check = 'mismatch', concat(', not resolved to ', replaceOne(toString(dst_ip), '::ffff:', '')), ''),
        ', ', formatReadableSize(up_bytes), ' up, ', formatReadableSize(down_bytes), ' down, ',
        toString(intDiv(dur_us, 1000)), ' ms') AS summary,
    toUUID('00000000-0000-0000-0000-000000000000') AS exchange_id, flow_id,
    if(sni = '', replaceOne(toString(dst_ip), '::ffff:', ''), toString(sni)) AS dst_host
FROM flows
WHERE mode != 'terminated' OR outcome != 'ok' OR dns_check = 'mismatch'
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
FROM gaps
UNION ALL
SELECT
    ts, org, project, '' AS job_id, toUUID('00000000-0000-0000-0000-000000000000') AS session_id,
    '' AS exec_id, toUInt32(0) AS pid, '' AS process, '' AS identity, host_id, boot_id, seq,
    'dns' AS event, 'warn' AS severity,
    concat(
        decision, ' ', qname, ' ', toString(qtype), ' -> ', toString(rcode), ' (', toString(outcome), ')') AS summary,
    toUUID('00000000-0000-0000-0000-000000000000') AS exchange_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS flow_id, qname AS dst_host
FROM dns_queries
WHERE decision != 'forwarded'
UNION ALL
SELECT
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    'alarm' AS event, toString(severity) AS severity,
    concat(
        toString(kind),
        if(dst_ip = toIPv6('::') AND dst_port = 0, '', concat(
            if(proto = '', '', concat(' ', toString(proto))), ' ',
            if(startsWith(toString(dst_ip), '::ffff:'), substring(toString(dst_ip), 8), concat('[', toString(dst_ip), ']')),
            ':', toString(dst_port))),
        if(detail = '', '', concat(': ', detail)),
        if(count = 1, '', concat(' (', toString(count), ' times)'))) AS summary,
    toUUID('00000000-0000-0000-0000-000000000000') AS exchange_id,
    toUUID('00000000-0000-0000-0000-000000000000') AS flow_id,
    if(dst_ip = toIPv6('::') AND dst_port = 0, '', replaceOne(toString(dst_ip), '::ffff:', '')) AS dst_host
FROM alarms;
