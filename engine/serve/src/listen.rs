//! Connections: how many, how long, and how they end.

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

/// Connections at most; whoever comes then waits for one to end.
const MAX_CONNECTIONS: usize = 512;
/// How long the head of a request may take to come, and how long a connection may say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the head of a request at most.
const MAX_HEAD: usize = 64 << 10;

/// Answers until `stop` is set; then what was asked already, for `drain` at most. Whether all of it was answered.
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
            // Out of file descriptors, say: some will be free later.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Small answers must not wait for more.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        let metrics = Arc::clone(&shared.metrics);
        metrics.connection(1);
        tokio::spawn(async move {
            // The client has gone or sent nonsense; it was told, if it can be.
            let _ = connection.await;
            metrics.connection(-1);
            drop(place);
        });
    }
    shared.draining.store(true, Ordering::Release);
    drop(listener);
    timeout(drain, open.shutdown()).await.is_ok()
}

/// Signals set a flag and can do no more.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        sleep(Duration::from_millis(50)).await;
    }
}
