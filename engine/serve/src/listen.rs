//! Accepting connections: how many there are, which of them make room for others, and how it ends.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

use crate::api::{is_health_check, overload, router};
use crate::connection::{Activity, Deadlines, InRequest, Stream};
use crate::metrics::Metrics;
use crate::shared::Shared;

/// Timeout for the head of a request, and for connections on which nothing comes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has taken nothing for so long makes room for another one.
const STALLED: Duration = Duration::from_secs(1);
/// Bytes of the head of a request at most.
const MAX_HEAD: usize = 64 << 10;
/// Bytes that are read ahead on a connection.
pub(crate) const MAX_BUFFER: usize = MAX_HEAD + (8 << 10);
/// Bytes of answers that the system keeps for a client that does not read. Left alone, they grow to megabytes, which are
/// thousands of answers.
const SEND_BUFFER: usize = 256 << 10;
/// Requests that are begun at a time: one for a health check, which does not wait for a place, is never behind more than these.
const BEGUN: usize = 32;
/// Connections beyond the limit, on which health checks are answered and everybody else is told that the server is full.
pub const RESERVE: usize = 64;
/// Each has one request, which comes at once.
const RESERVE_DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(1),
    idle: Duration::from_millis(1),
    write: Duration::from_secs(1),
};

/// How the listener ends.
pub(crate) struct Ending<'a> {
    /// Set when the server is to end.
    pub(crate) stop: &'a AtomicBool,
    /// How long it goes on to accept connections then, while `/readyz` says that it ends.
    pub(crate) lame_duck: Duration,
    /// How long pending requests are worked on after that.
    pub(crate) drain: Duration,
}

/// Serves until it is to end, then finishes pending requests. Returns whether all were finished.
pub(crate) async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    max_connections: usize,
    keep_alive: Duration,
    ending: Ending<'_>,
) -> bool {
    let deadlines = Deadlines { head: HEAD_TIMEOUT, idle: keep_alive, write: WRITE_TIMEOUT };
    let acceptor = Acceptor {
        router: router(&shared),
        overload: overload(&shared),
        metrics: Arc::clone(&shared.metrics),
        deadlines,
        limit: max_connections,
        open: Arc::default(),
        begun: Arc::new(Semaphore::new(BEGUN)),
        reserve: Mutex::default(),
        graceful: GracefulShutdown::new(),
    };
    tokio::select! {
        () = stopped(ending.stop) => {}
        () = acceptor.accept(&listener) => {}
    }
    shared.draining.store(true, Ordering::Release);
    let _ = timeout(ending.lame_duck, acceptor.accept(&listener)).await;
    drop(listener);
    timeout(ending.drain, acceptor.graceful.shutdown()).await.is_ok()
}

/// Polls the flag that signal handlers set; they can do no more.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The connections within the limit, by number.
#[derive(Default)]
struct Table {
    open: HashMap<u64, (Arc<Activity>, AbortHandle)>,
    next: u64,
}

impl Table {
    /// Closes the connection that can best be spared. False if none can.
    fn make_room(&mut self) -> bool {
        let spare = |(number, (activity, _)): (&u64, &(Arc<Activity>, AbortHandle))| {
            Some((activity.expendable(STALLED)?, *number))
        };
        let spare = self.open.iter().filter_map(spare).min().map(|(_, number)| number);
        let closed = spare.and_then(|number| self.open.remove(&number));
        closed.inspect(|(_, task)| task.abort()).is_some()
    }
}

type Connections = Arc<Mutex<Table>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Acceptor {
    router: Router,
    overload: Router,
    metrics: Arc<Metrics>,
    deadlines: Deadlines,
    limit: usize,
    open: Connections,
    /// Places for requests that begin.
    begun: Arc<Semaphore>,
    /// Connections beyond the limit, the oldest first.
    reserve: Mutex<VecDeque<AbortHandle>>,
    graceful: GracefulShutdown,
}

impl Acceptor {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.open(stream, peer.ip()),
                Err(_) => {
                    // For example out of file descriptors; retried later.
                    lock(&self.open).make_room();
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn open(&self, stream: TcpStream, peer: IpAddr) {
        // TCP_NODELAY: small responses are sent at once.
        let _ = stream.set_nodelay(true);
        let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER);
        let mut open = lock(&self.open);
        if open.open.len() < self.limit || open.make_room() {
            let number = open.next;
            open.next += 1;
            let activity = Arc::new(Activity::new());
            let listed = Listed { number, open: Arc::clone(&self.open) };
            let task = self.spawn((stream, peer), &activity, Some(listed));
            open.open.insert(number, (activity, task));
            return;
        }
        drop(open);
        self.metrics.refused("connections");
        let task = self.spawn((stream, peer), &Arc::new(Activity::new()), None);
        let mut reserve = lock(&self.reserve);
        reserve.retain(|task| !task.is_finished());
        if reserve.len() >= RESERVE
            && let Some(oldest) = reserve.pop_front()
        {
            oldest.abort();
        }
        reserve.push_back(task);
    }

    /// Serves a connection; one that is not `listed` is beyond the limit.
    fn spawn(
        &self,
        (stream, peer): (TcpStream, IpAddr),
        activity: &Arc<Activity>,
        listed: Option<Listed>,
    ) -> AbortHandle {
        let (router, deadlines) = match listed {
            Some(_) => (&self.router, self.deadlines),
            None => (&self.overload, RESERVE_DEADLINES),
        };
        let service = Requests {
            router: TowerToHyperService::new(router.clone()),
            activity: Arc::clone(activity),
            peer: Peer(peer),
            begun: Arc::clone(&self.begun),
        };
        let mut http = http1::Builder::new();
        // Deadlines are those of the stream.
        http.header_read_timeout(None)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .keep_alive(listed.is_some());
        let stream = Stream::new(stream, Arc::clone(activity), deadlines);
        let connection = self.graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        let counted = Counted::new(&self.metrics);
        let task = tokio::spawn(async move {
            let _until_the_end = (listed, counted);
            // The client has disconnected, or did not keep to HTTP and was told so.
            let _ = connection.await;
        });
        task.abort_handle()
    }
}

/// The place of a connection in the table; it is free when this is dropped.
struct Listed {
    number: u64,
    open: Connections,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.open).open.remove(&self.number);
    }
}

/// A connection that counts as open until this is dropped.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connection(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connection(-1);
    }
}

/// The requests of one connection.
struct Requests {
    router: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    peer: Peer,
    begun: Arc<Semaphore>,
}

/// The address of a client, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        let has_body = !request.body().is_end_stream();
        let (router, activity) = (self.router.clone(), Arc::clone(&self.activity));
        let begun = (!is_health_check(request.uri().path())).then(|| Arc::clone(&self.begun));
        Box::pin(async move {
            let in_request = activity.request(has_body);
            activity.taken().await;
            // Requests that came in one go take turns with other connections.
            if let Some(begun) = begun {
                let _place = begun.acquire().await;
                yield_now().await;
            }
            let response = router.call(request).await?;
            Ok(response.map(|body| Answer { body, _in_request: in_request }))
        })
    }
}

/// The body of an answer. The request is over when it is dropped.
struct Answer {
    body: Body,
    _in_request: InRequest,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
