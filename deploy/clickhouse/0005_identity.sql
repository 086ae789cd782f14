-- The record of weir, version 5: who a process acts for, as far as a provider vouched for it.

-- identity_method is identity_src of flows under the name that all tables share; rows of before, and
-- of older gateways, know users of the host only. Exchanges have no ids: those of their flow hold.
ALTER TABLE flows ADD COLUMN IF NOT EXISTS ids Map(LowCardinality(String), String) CODEC(ZSTD(1));
ALTER TABLE flows ADD COLUMN IF NOT EXISTS identity_method LowCardinality(String) DEFAULT identity_src;
ALTER TABLE flows ADD COLUMN IF NOT EXISTS identity_confidence LowCardinality(String) DEFAULT identity_src;
ALTER TABLE flows ADD COLUMN IF NOT EXISTS identity_state LowCardinality(String);
ALTER TABLE flows ADD COLUMN IF NOT EXISTS issuer LowCardinality(String);
ALTER TABLE flows ADD COLUMN IF NOT EXISTS subject String CODEC(ZSTD(1));
ALTER TABLE flows ADD COLUMN IF NOT EXISTS groups Array(LowCardinality(String)) CODEC(ZSTD(1));
ALTER TABLE flows ADD COLUMN IF NOT EXISTS repository LowCardinality(String);
ALTER TABLE flows ADD COLUMN IF NOT EXISTS workflow LowCardinality(String);
ALTER TABLE flows ADD COLUMN IF NOT EXISTS run String CODEC(ZSTD(1));
ALTER TABLE flows ADD COLUMN IF NOT EXISTS ci_job String CODEC(ZSTD(1));
ALTER TABLE flows ADD COLUMN IF NOT EXISTS actor LowCardinality(String);
ALTER TABLE flows ADD COLUMN IF NOT EXISTS runner String CODEC(ZSTD(1));
ALTER TABLE flows ADD INDEX IF NOT EXISTS ix_subj subject TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE flows ADD INDEX IF NOT EXISTS ix_repo repository TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE flows ADD INDEX IF NOT EXISTS ix_actor actor TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE flows ADD INDEX IF NOT EXISTS ix_run run TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS identity_method LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS identity_confidence LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS identity_state LowCardinality(String);
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS issuer LowCardinality(String);
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS subject String CODEC(ZSTD(1));
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS groups Array(LowCardinality(String)) CODEC(ZSTD(1));
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS repository LowCardinality(String);
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS workflow LowCardinality(String);
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS run String CODEC(ZSTD(1));
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS ci_job String CODEC(ZSTD(1));
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS actor LowCardinality(String);
ALTER TABLE exchanges ADD COLUMN IF NOT EXISTS runner String CODEC(ZSTD(1));
ALTER TABLE exchanges ADD INDEX IF NOT EXISTS ix_subj subject TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE exchanges ADD INDEX IF NOT EXISTS ix_repo repository TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE exchanges ADD INDEX IF NOT EXISTS ix_actor actor TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE exchanges ADD INDEX IF NOT EXISTS ix_run run TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS identity_method LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS identity_confidence LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS identity_state LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS issuer LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS subject String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS groups Array(LowCardinality(String)) CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS repository LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS workflow LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS run String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS ci_job String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS actor LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS runner String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD INDEX IF NOT EXISTS ix_subj subject TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE dns_queries ADD INDEX IF NOT EXISTS ix_repo repository TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE dns_queries ADD INDEX IF NOT EXISTS ix_actor actor TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE dns_queries ADD INDEX IF NOT EXISTS ix_run run TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE alarms ADD COLUMN IF NOT EXISTS ids Map(LowCardinality(String), String) CODEC(ZSTD(1));
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS identity_method LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS identity_confidence LowCardinality(String) DEFAULT if(identity = '', '', 'uid');
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS identity_state LowCardinality(String);
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS issuer LowCardinality(String);
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS subject String CODEC(ZSTD(1));
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS groups Array(LowCardinality(String)) CODEC(ZSTD(1));
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS repository LowCardinality(String);
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS workflow LowCardinality(String);
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS run String CODEC(ZSTD(1));
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS ci_job String CODEC(ZSTD(1));
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS actor LowCardinality(String);
ALTER TABLE alarms ADD COLUMN IF NOT EXISTS runner String CODEC(ZSTD(1));
ALTER TABLE alarms ADD INDEX IF NOT EXISTS ix_subj subject TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE alarms ADD INDEX IF NOT EXISTS ix_repo repository TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE alarms ADD INDEX IF NOT EXISTS ix_actor actor TYPE bloom_filter(0.01) GRANULARITY 1;
ALTER TABLE alarms ADD INDEX IF NOT EXISTS ix_run run TYPE bloom_filter(0.01) GRANULARITY 1;

-- As before, and who.
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
FROM alarms;

-- As before, and who: what was verified last comes before a user of the host.
CREATE OR REPLACE VIEW session_summary AS
SELECT
    session_id, any(org) AS org, any(project) AS project, any(host_id) AS host_id,
    any(job_id) AS job_id, argMax(identity, known) AS identity,
    arraySort(groupUniqArray(process)) AS processes,
    min(ts) AS started, max(ended) AS last,
    sum(is_flow) AS flows, sum(is_exchange) AS exchanges,
    sum(up_bytes) AS up_bytes, sum(down_bytes) AS down_bytes, sum(is_error) AS errors,
    argMax(identity_method, known) AS identity_method,
    argMax(identity_confidence, known) AS identity_confidence,
    argMax(identity_state, known) AS identity_state,
    argMax(issuer, known) AS issuer, argMax(subject, known) AS subject,
    argMax(repository, known) AS repository, argMax(workflow, known) AS workflow,
    argMax(run, known) AS run, argMax(ci_job, known) AS ci_job, argMax(actor, known) AS actor,
    argMax(runner, known) AS runner
FROM
(
    SELECT
        session_id, org, project, host_id, job_id, identity, process, ts,
        identity_method, identity_confidence, identity_state, issuer, subject, repository,
        workflow, run, ci_job, actor, runner, (issuer != '', ts) AS known,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(1) AS is_flow, toUInt64(0) AS is_exchange, up_bytes, down_bytes,
        toUInt64(outcome != 'ok') AS is_error
    FROM flows
    UNION ALL
    SELECT
        session_id, org, project, host_id, job_id, identity, process, ts,
        identity_method, identity_confidence, identity_state, issuer, subject, repository,
        workflow, run, ci_job, actor, runner, (issuer != '', ts) AS known,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(0) AS is_flow, toUInt64(1) AS is_exchange,
        toUInt64(0) AS up_bytes, toUInt64(0) AS down_bytes,
        toUInt64(outcome != 'ok') AS is_error
    FROM exchanges
)
GROUP BY session_id;

-- One row per identity: everything that one subject of one issuer, or one user of the hosts, did.
-- Bytes are those of closed flows, on the downstream wire; alarms count attempts.
CREATE OR REPLACE VIEW identities AS
SELECT
    identity, identity_method, issuer, subject,
    groupUniqArrayIf(repository, repository != '') AS repositories,
    groupUniqArrayIf(actor, actor != '') AS actors,
    uniqExactIf((run, ci_job), (run != '') OR (ci_job != '')) AS jobs,
    uniqExact(host_id) AS hosts,
    min(ts) AS first_seen, max(ended) AS last_seen,
    sum(is_flow) AS flows, sum(is_exchange) AS exchanges,
    sum(up_bytes) AS up_bytes, sum(down_bytes) AS down_bytes,
    sum(is_error) AS errors, sum(alarmed) AS alarms
FROM
(
    SELECT
        identity, identity_method, issuer, subject, repository, actor, run, ci_job, host_id, ts,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(1) AS is_flow, toUInt64(0) AS is_exchange, up_bytes, down_bytes,
        toUInt64(outcome != 'ok') AS is_error, toUInt64(0) AS alarmed
    FROM flows
    UNION ALL
    SELECT
        identity, identity_method, issuer, subject, repository, actor, run, ci_job, host_id, ts,
        addMicroseconds(ts, toInt64(least(dur_us, 31536000000000))) AS ended,
        toUInt64(0) AS is_flow, toUInt64(1) AS is_exchange,
        toUInt64(0) AS up_bytes, toUInt64(0) AS down_bytes,
        toUInt64(outcome != 'ok') AS is_error, toUInt64(0) AS alarmed
    FROM exchanges
    UNION ALL
    SELECT
        identity, identity_method, issuer, subject, repository, actor, run, ci_job, host_id, ts,
        ts AS ended, toUInt64(0) AS is_flow, toUInt64(0) AS is_exchange,
        toUInt64(0) AS up_bytes, toUInt64(0) AS down_bytes, toUInt64(0) AS is_error,
        count AS alarmed
    FROM alarms
    WHERE identity != ''
)
GROUP BY identity, identity_method, issuer, subject;
