//! Serves one downstream connection.
//!
//! - input: a stream, the protocol, a handler
//! - output: nothing; the handler saw every request
//! - bound: see `super`; HTTP/2 windows of 1 MiB per stream and 4 MiB per connection
//! - on failure: [`HttpError`]; a cancelled token lets open exchanges finish and then closes

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::HttpError;
use super::body::ResponseBody;
use crate::limits;
use crate::telemetry::{Metrics, PanicCount};
use crate::tls::Protocol;

/// Runs hyper's own tasks on the worker's thread; each HTTP/2 stream is one.
#[derive(Clone, Debug)]
pub struct LocalExecutor(pub Arc<Metrics>);

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, task: F) {
        // Ends with its connection, whose task is tracked: hyper owns nothing that outlives it.
        let count = PanicCount(Arc::clone(&self.0));
        tokio::task::spawn_local(async move {
            let _count = count;
            task.await;
        });
    }
}

/// Serves until the client or `shutdown` ends the connection. A connection that has not asked
/// for anything yet gets `limits::FIRST_REQUEST` to do so.
///
/// # Errors
/// See [`HttpError`].
pub async fn serve<IO, H, F>(
    io: IO,
    protocol: Protocol,
    head_timeout: Duration,
    shutdown: &CancellationToken,
    metrics: Arc<Metrics>,
    handler: H,
) -> Result<(), HttpError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    let asked = Arc::new(Notify::new());
    let began = Arc::clone(&asked);
    let service = service_fn(move |request| {
        began.notify_one();
        let response = handler(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(io);
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                done = connection.as_mut() => done?,
                () = shutdown.cancelled() => {
                    // Closed before its first request, the client would see a failure that a new
                    // connection does not excuse.
                    tokio::select! {
                        done = connection.as_mut() => return Ok(done?),
                        () = asked.notified() => {}
                        () = tokio::time::sleep(limits::FIRST_REQUEST) => {}
                    }
                    connection.as_mut().graceful_shutdown();
                    connection.await?;
                }
            }
        }};
    }
    match protocol {
        Protocol::H1 => drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head_timeout)
                .max_headers(limits::MAX_HEADERS)
                .max_buf_size(limits::MAX_HEAD_BYTES)
                // A FIN in the middle of an exchange is a client that goes away.
                .half_close(false)
                .preserve_header_case(true)
                .auto_date_header(false)
                .serve_connection(io, service)
                .with_upgrades()
        ),
        Protocol::H2 => drive!(
            http2::Builder::new(LocalExecutor(metrics))
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits::MAX_H2_STREAMS)
                .max_header_list_size(u32::try_from(limits::MAX_HEAD_BYTES).unwrap_or(u32::MAX))
                .initial_stream_window_size(1024 * 1024)
                .initial_connection_window_size(4 * 1024 * 1024)
                .auto_date_header(false)
                .serve_connection(io, service)
        ),
    }
    Ok(())
}
