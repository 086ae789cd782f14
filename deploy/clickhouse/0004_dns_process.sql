-- The record of weir, version 4: which process asked the resolver.

ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS session_id UUID;
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS job_id String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS exec_id String CODEC(ZSTD(1));
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS identity LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS pid UInt32;
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS start_time_ns UInt64;
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS process LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS exe LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS uid UInt32;
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS cgroup_id UInt64;
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS cgroup LowCardinality(String);
ALTER TABLE dns_queries ADD COLUMN IF NOT EXISTS asked_ip IPv6;

-- As before, and questions belong to the process that asked.
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
    ts, org, project, job_id, session_id, exec_id, pid, process, identity, host_id, boot_id, seq,
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
