//! What `weir ci-hook`, `whoami`, `whois`, `revoke` and `identities` say to the gateway, and what it
//! answers: one line of JSON each.
//!
//! - input: a connection to `identity.sock`
//! - output: [`Order`] on one side, [`Reply`] on the other
//! - bound: [`MAX_ORDER_BYTES`], [`MAX_REPLY_BYTES`], [`PATIENCE`]
//! - on failure: the operating system's answer, or `InvalidData`
//!
//! Who asks is told by the kernel (`SO_PEERCRED`), never by the order.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::who::Who;

/// Longest order, an environment with tokens included.
pub const MAX_ORDER_BYTES: u64 = 256 * 1024;
/// Longest answer: a list of everybody.
pub const MAX_REPLY_BYTES: u64 = 8 * 1024 * 1024;
/// For one order: a request to a provider, its keys, and some time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// The caller's CI job has begun.
    JobStart {
        /// As `identity.issuer.kind`.
        kind: String,
        /// Where its token is found. It proves nothing.
        environment: BTreeMap<String, String>,
        /// First process of the job; for root alone.
        pid: Option<u32>,
    },
    /// The caller's CI job is over.
    JobEnd {
        /// As `identity.issuer.kind`.
        kind: String,
    },
    /// The caller's session wants to log in by a browser, whose answer comes to `redirect`.
    LoginCode {
        /// Name of the provider; none where there is one.
        issuer: Option<String>,
        /// Where the caller listens on loopback.
        redirect: String,
    },
    /// The answer came.
    LoginAnswer {
        /// Of [`Reply::Browse`].
        id: uuid::Uuid,
        /// The query of the redirect.
        answer: String,
    },
    /// The caller's session wants to log in with a code. It is answered twice: by [`Reply::Device`] at
    /// once, and when it is decided. Who hangs up takes it back.
    LoginDevice {
        /// Name of the provider; none where there is one.
        issuer: Option<String>,
    },
    /// The caller's session logs out.
    Logout,
    /// Who the caller acts for.
    Whoami,
    /// Who another process acts for.
    Whois {
        /// Which.
        pid: u32,
    },
    /// Everybody.
    List,
    /// Takes an identity back.
    Revoke {
        /// What it is called: its display name, its subject or its number.
        name: String,
    },
}

/// Somebody, as shown.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Person {
    /// See [`Who::display`]; empty when nobody vouches.
    pub display: String,
    /// `active`, `pending`, `refused`, `expired`, `revoked` or `unidentified`.
    pub state: String,
    /// See [`Who::method`].
    pub method: String,
    /// See [`Who::confidence`].
    pub confidence: String,
    /// Issuer URL.
    pub issuer: String,
    /// `sub`
    pub subject: String,
    /// Groups of a person.
    pub groups: Vec<String>,
    /// What is built.
    pub repository: String,
    /// Workflow or pipeline.
    pub workflow: String,
    /// Run of it.
    pub run: String,
    /// Job of the run.
    pub ci_job: String,
    /// Who started it.
    pub actor: String,
    /// Number of a job's anchor.
    pub anchor: Option<u64>,
}

impl Person {
    /// What is shown of somebody.
    pub fn of(who: &Who, state: &str, anchor: Option<u64>) -> Self {
        let text = |text: &std::sync::Arc<str>| text.to_string();
        Self {
            display: text(&who.display),
            state: state.to_owned(),
            method: who.method.to_owned(),
            confidence: who.confidence.to_owned(),
            issuer: text(&who.issuer),
            subject: text(&who.subject),
            groups: who.groups.iter().map(text).collect(),
            repository: text(&who.repository),
            workflow: text(&who.workflow),
            run: text(&who.run),
            ci_job: text(&who.ci_job),
            actor: text(&who.actor),
            anchor,
        }
    }

    /// Nobody vouches.
    pub fn nobody() -> Self {
        Self { state: "unidentified".to_owned(), ..Self::default() }
    }
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Reply {
    /// These.
    People {
        /// One, or a list.
        people: Vec<Person>,
    },
    /// Open this in a browser.
    Browse {
        /// To answer with.
        id: uuid::Uuid,
        /// The provider's page.
        url: String,
    },
    /// Open this anywhere and enter the code.
    Device {
        /// The provider's page.
        url: String,
        /// What to enter there.
        user_code: String,
        /// Who asks, from where.
        text: String,
    },
    /// Done, to so many.
    Done {
        /// Identities.
        count: usize,
    },
    /// Not done.
    Refused {
        /// Stable name.
        outcome: String,
        /// In words.
        message: String,
    },
}

/// Asks the gateway.
///
/// # Errors
/// As of `connect(2)`; `TimedOut`; `InvalidData` for an answer that is none.
pub async fn ask(path: &Path, order: &Order) -> Result<Reply> {
    let asking = async {
        let mut stream = UnixStream::connect(path).await?;
        send(&mut stream, order).await?;
        receive(&mut stream, MAX_REPLY_BYTES).await
    };
    tokio::time::timeout(PATIENCE, asking).await.map_err(|_late| ErrorKind::TimedOut)?
}

/// Sends one line.
///
/// # Errors
/// As of `write(2)`.
pub async fn send<T: Serialize>(stream: &mut UnixStream, what: &T) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line.
///
/// # Errors
/// `InvalidData` when it is too long, or not what is expected.
pub async fn receive<T: for<'a> Deserialize<'a>>(stream: &mut UnixStream, max: u64) -> Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream).take(max).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(Error::new(ErrorKind::InvalidData, "not one line"));
    }
    // serde_json repeats what it read; there may be tokens in it.
    serde_json::from_slice(&line).map_err(|_secret| Error::new(ErrorKind::InvalidData, "not json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(bytes: &[u8], max: u64) -> Option<Order> {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(bytes).await.unwrap();
        drop(one);
        receive(&mut other, max).await.ok()
    }

    #[tokio::test]
    async fn only_whole_orders_of_bounded_length_are_taken() {
        let max = 64;
        assert!(matches!(received(b"{\"op\":\"whoami\"}\n", max).await, Some(Order::Whoami)));
        let long = format!("{{\"op\":\"revoke\",\"name\":\"{}\"}}\n", "x".repeat(64));
        let bad: [&[u8]; 7] = [
            b"",
            b"\n",
            b"{\"op\":\"whoami\"}",
            b"{\"op\":\"nothing\"}\n",
            b"{\"op\":\"whois\",\"pid\":-1}\n",
            b"{\"op\":\"job-end\",\"kind\":\"github\",\"uid\":0}\n",
            long.as_bytes(),
        ];
        for bytes in bad {
            let text = String::from_utf8_lossy(bytes);
            assert!(received(bytes, max).await.is_none(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_wrong_order_does_not_come_back_in_the_error() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(b"{\"op\":\"s3cret\"}\n").await.unwrap();
        let error = receive::<Order>(&mut other, 64).await.err().unwrap();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
