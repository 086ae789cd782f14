-- The record of weir, version 2: questions to the resolver, and what they say about flows.

-- Whether the server name was resolved to the destination: known, unknown, mismatch, or empty.
ALTER TABLE flows ADD COLUMN IF NOT EXISTS dns_check LowCardinality(String);

-- One row per question to the resolver. Which process asked is not known: the socket of a datagram
-- tells nothing but its port.
CREATE TABLE IF NOT EXISTS dns_queries
(
    host_id     LowCardinality(String),
    boot_id     UUID,
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    org         LowCardinality(String),
    project     LowCardinality(String),
    ts          DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at  DateTime('UTC') CODEC(Delta, ZSTD(1)),
    qname       String CODEC(ZSTD(1)),
    qtype       LowCardinality(String),
    rcode       LowCardinality(String),
    answers     Array(String) CODEC(ZSTD(1)),
    decision    LowCardinality(String),
    outcome     LowCardinality(String),
    upstream    LowCardinality(String),
    ech_removed UInt8 CODEC(T64, ZSTD(1)),
    proto       LowCardinality(String),
    client_port UInt16,
    dur_us      UInt64 CODEC(T64, ZSTD(1)),
    INDEX ix_name qname TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(ts)
ORDER BY (org, project, host_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- As before, and flows whose server name was resolved to other addresses, and questions that got
-- no answer.
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
WHERE decision != 'forwarded';
