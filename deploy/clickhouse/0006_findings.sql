-- The record of weir, version 6: secrets in exchanges.

-- One row per secret and place. Nothing of the secret is in it: fingerprint is a keyed hash, made where
-- the record is made.
CREATE TABLE IF NOT EXISTS findings
(
    host_id     LowCardinality(String),
    boot_id     UUID,
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    org         LowCardinality(String),
    project     LowCardinality(String),
    ts          DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    expires_at  DateTime('UTC') CODEC(Delta, ZSTD(1)),
    exchange_id UUID,
    flow_id     UUID,
    session_id  UUID,
    job_id      String CODEC(ZSTD(1)),
    exec_id     String CODEC(ZSTD(1)),
    identity    LowCardinality(String),
    pid         UInt32 CODEC(T64, ZSTD(1)),
    process     LowCardinality(String),
    dst_host    LowCardinality(String),
    direction   Enum8('request' = 1, 'response' = 2),
    rule        LowCardinality(String),
    tier        LowCardinality(String),
    confidence  LowCardinality(String),
    location    String CODEC(ZSTD(1)),
    length      UInt32 CODEC(T64, ZSTD(1)),
    fingerprint FixedString(32) CODEC(ZSTD(1)),
    action      LowCardinality(String),
    placeholder String CODEC(ZSTD(1)),
    identity_method     LowCardinality(String),
    identity_confidence LowCardinality(String),
    identity_state      LowCardinality(String),
    issuer              LowCardinality(String),
    subject             String CODEC(ZSTD(1)),
    groups              Array(LowCardinality(String)) CODEC(ZSTD(1)),
    repository          LowCardinality(String),
    workflow            LowCardinality(String),
    run                 String CODEC(ZSTD(1)),
    ci_job              String CODEC(ZSTD(1)),
    actor               LowCardinality(String),
    runner              String CODEC(ZSTD(1)),
    INDEX ix_finger fingerprint TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_exch   exchange_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_sess   session_id  TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_ts     ts          TYPE minmax              GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (org, project, job_id, ts, seq)
TTL expires_at
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000,
         fsync_after_insert = 1, fsync_part_directory = 1;

-- How many, with those that have no row, and the strongest thing that was done about them.
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS findings UInt32 CODEC(T64, ZSTD(1)) AFTER chunk_bytes;
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS finding_action LowCardinality(String) CODEC(ZSTD(1)) AFTER findings;

-- As before, and findings.
CREATE OR REPLACE VIEW timeline AS
SELECT
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    identity_method, identity_confidence, identity_state, issuer, subject, groups, repository,
    workflow, run, ci_job, actor, runner,
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
    identity_method, identity_confidence, identity_state, issuer, subject, groups, repository,
    workflow, run, ci_job, actor, runner,
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
    '' AS identity_method, '' AS identity_confidence, '' AS identity_state, '' AS issuer, '' AS subject,
    emptyArrayString() AS groups, '' AS repository, '' AS workflow, '' AS run, '' AS ci_job,
    '' AS actor, '' AS runner,
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
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    identity_method, identity_confidence, identity_state, issuer, subject, groups, repository,
    workflow, run, ci_job, actor, runner,
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
    identity_method, identity_confidence, identity_state, issuer, subject, groups, repository,
    workflow, run, ci_job, actor, runner,
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
FROM alarms
UNION ALL
SELECT
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
    identity_method, identity_confidence, identity_state, issuer, subject, groups, repository,
    workflow, run, ci_job, actor, runner,
    'finding' AS event, if(action = 'refused', 'warn', 'info') AS severity,
    concat(
        action, ' ', rule, ' (', confidence, ', ', toString(length), ' bytes) in the ', toString(direction),
        if(direction = 'request', ' to ', ' of '), dst_host, if(location = '', '', concat(', ', location)),
        ', fingerprint ', toString(fingerprint)) AS summary,
    exchange_id, flow_id, toString(dst_host) AS dst_host
FROM findings;
