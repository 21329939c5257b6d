//! Connections: limits, timeouts and shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::api::Shared;

/// Maximum number of connections; further clients wait until one ends.
const MAX_CONNECTIONS: usize = 512;
/// Timeout for the head of a request, and for idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the head of a request at most.
const MAX_HEAD: usize = 64 << 10;

/// Serves until `stop` is set, then finishes pending requests for up to `drain`. Returns whether all were finished.
pub(crate) async fn listen(
    listener: TcpListener,
    router: Router,
    shared: Arc<Shared>,
    stop: &AtomicBool,
    drain: Duration,
) -> bool {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_header_size(MAX_HEAD);
    let stopped = stopped(stop);
    tokio::pin!(stopped);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stopped => break,
            accepted = accept => accepted,
        };
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            // For example out of file descriptors; retried later.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // TCP_NODELAY: small responses are sent at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        let metrics = Arc::clone(&shared.metrics);
        metrics.connection(1);
        tokio::spawn(async move {
            // The client has disconnected or sent an invalid request, which hyper has answered.
            let _ = connection.await;
            metrics.connection(-1);
            drop(place);
        });
    }
    shared.draining.store(true, Ordering::Release);
    drop(listener);
    timeout(drain, open.shutdown()).await.is_ok()
}

/// Polls the flag that signal handlers set; they can do no more.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        sleep(Duration::from_millis(50)).await;
    }
}
