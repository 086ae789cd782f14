//! Every bound of the gateway in one place. Configurable ones are defaults here and are read from
//! `config::Config`; the rest are fixed because no operator has a reason to change them.

use std::time::Duration;

/// Bytes of a ClientHello, all records together, before the flow is refused.
pub const MAX_CLIENT_HELLO_BYTES: usize = 64 * 1024;
/// Bytes kept of the first write of a non-TLS flow to classify it.
pub const MAX_SNIFF_BYTES: usize = 1024;
/// Bytes of one request or response head. hyper answers 431 beyond it.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Header fields in one head.
pub const MAX_HEADERS: usize = 100;
/// Concurrent HTTP/2 streams of one downstream connection.
pub const MAX_H2_STREAMS: u32 = 128;
/// Leaves kept in the certificate cache, over all shards.
pub const MAX_CACHED_LEAVES: usize = 4096;
/// Remembered upstream ALPN results per worker.
pub const MAX_CACHED_ALPN: usize = 4096;
/// Idle upstream connections per worker, and per destination.
pub const MAX_POOL_IDLE: usize = 1024;
/// See [`MAX_POOL_IDLE`].
pub const MAX_POOL_IDLE_PER_KEY: usize = 128;
/// An idle upstream connection is closed after this time.
pub const POOL_IDLE: Duration = Duration::from_secs(25);
/// Timestamps kept per streamed body; later chunks are counted into the last one.
pub const MAX_CHUNK_MARKS: usize = 1024;
/// Resolved processes and cgroup names kept.
pub const MAX_CACHED_PROCESSES: usize = 8192;
/// DNS messages over UDP; larger answers are asked for and given over TCP.
pub const MAX_DNS_UDP_BYTES: usize = 4096;
/// A DNS connection may wait so long for its next message, and for its client to read.
pub const DNS_IDLE: Duration = Duration::from_secs(10);
/// Exchanges that may be open or queued for the recorder at once.
pub const MAX_OPEN_RECORDS: usize = 32 * 1024;
/// Bodies that are judged as a whole, all together.
pub const MAX_INSPECTED_BYTES: usize = 512 * 1024 * 1024;
/// One record in the spool; a larger one is a bug and is refused.
pub const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;
/// How long a new exchange waits for a recorder slot before it is refused.
pub const RECORD_WAIT: Duration = Duration::from_secs(5);
/// What a new connection gets for its first request when the gateway stops to accept.
pub const FIRST_REQUEST: Duration = Duration::from_secs(5);
/// One identity token.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Claims of one token, objects in it opened.
pub const MAX_CLAIMS: usize = 256;
/// A claim that names somebody or something in an identity; a group.
pub const MAX_IDENTITY_TEXT_BYTES: usize = 1024;
/// Groups of one identity.
pub const MAX_IDENTITY_GROUPS: usize = 512;
/// One answer of an identity provider: metadata, keys, a token.
pub const MAX_PROVIDER_ANSWER_BYTES: usize = 100 * 1024;
/// One request to an identity provider, from connect to the last byte.
pub const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys of one issuer.
pub const MAX_ISSUER_KEYS: usize = 64;
/// Keys of an issuer are fetched again in the background after this time.
pub const KEYS_REFRESH: Duration = Duration::from_secs(10 * 60);
/// At least this long between two attempts to fetch the keys of an issuer.
pub const KEYS_RETRY: Duration = Duration::from_secs(30);
/// Keys of an issuer that cannot be reached are used for so long.
pub const KEYS_STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens remembered against replay, over all anchors.
pub const MAX_REMEMBERED_TOKENS: usize = 65_536;
/// The same of one anchor, so that it cannot use up the room of the others.
pub const MAX_REMEMBERED_TOKENS_PER_ANCHOR: usize = 256;
/// Jobs remembered with the anchor that claimed them, over all anchors, and ended anchors.
pub const MAX_REMEMBERED_JOBS: usize = 65_536;
/// Jobs of one anchor.
pub const MAX_REMEMBERED_JOBS_PER_ANCHOR: usize = 16;
/// A job stays with its anchor for so long after its last token, and at least until that expires.
pub const JOB_MEMORY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Environment of one process, as procfs shows it.
pub const MAX_ENVIRONMENT_BYTES: usize = 1024 * 1024;
/// Jobs that are kept over a restart; those that ended stay until their tokens are forgotten.
pub const MAX_KEPT_JOBS: usize = 16_384;
/// File of a job, with its identity and hashes of its tokens.
pub const MAX_KEPT_JOB_BYTES: usize = 1024 * 1024;

/// Logins of people at once, over all users.
pub const MAX_LOGINS: usize = 4096;
/// Logins of one user at once.
pub const MAX_LOGINS_PER_USER: usize = 32;
/// Login flows that wait for their person, over all users.
pub const MAX_PENDING_LOGINS: usize = 256;
/// Login flows that a user may begin in [`LOGIN_STARTS_WINDOW`].
pub const MAX_LOGIN_STARTS: usize = 10;
/// See [`MAX_LOGIN_STARTS`].
pub const LOGIN_STARTS_WINDOW: Duration = Duration::from_secs(10 * 60);
/// A person has so long to log in at the provider's page.
pub const LOGIN_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// A device flow is given up after this time, even if the provider would wait longer.
pub const MAX_DEVICE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// A device flow asks at least so often when the provider cannot be reached.
pub const MAX_DEVICE_POLL: Duration = Duration::from_secs(30);
/// A refused request begins a device flow for its session once in this time.
pub const PROMPT_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Sessions that are remembered to have had one.
pub const MAX_PROMPTS: usize = 256;
/// A refused request waits so long for the code that it is to show.
pub const PROMPT_PATIENCE: Duration = Duration::from_secs(5);
/// Login sessions are looked at so often.
pub const SESSION_LOOK: Duration = Duration::from_secs(10);
/// Refreshes that run at once.
pub const MAX_REFRESHES: usize = 16;
/// A failed refresh is tried again after this time, doubled each time up to [`REFRESH_RETRY_MOST`].
pub const REFRESH_RETRY: Duration = Duration::from_secs(5);
/// See [`REFRESH_RETRY`].
pub const REFRESH_RETRY_MOST: Duration = Duration::from_secs(60);
/// One kept login, with groups.
pub const MAX_LOGIN_FILE_BYTES: usize = 1024 * 1024;
/// Processes that are looked at to see whether a login session lives.
pub const MAX_SCANNED_PROCESSES: usize = 65_536;
/// Findings of one exchange that become rows; more are counted.
pub const MAX_FINDINGS: usize = 256;
/// Jobs and login sessions with a vault.
pub const MAX_SCOPES: usize = 2048;
