//! Accepting connections: how many there are, which of them make room for others, and how it ends.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::api::{overload, router};
use crate::connection::{Activity, Deadlines, Stream};
use crate::http::{Http, Peer, Requests};
use crate::metrics::Metrics;
use crate::shared::Shared;

/// Timeout for the head of a request, and for connections on which nothing comes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has taken nothing for so long makes room for another one.
const STALLED: Duration = Duration::from_secs(1);
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
        shared: Arc::clone(&shared),
        overload: overload(&shared),
        metrics: Arc::clone(&shared.metrics),
        deadlines,
        limit: max_connections,
        open: Arc::default(),
        begun: Arc::new(Semaphore::new(BEGUN)),
        reserve: Mutex::default(),
        stop: watch::Sender::new(()),
    };
    tokio::select! {
        () = stopped(ending.stop) => {}
        () = acceptor.accept(&listener) => {}
    }
    shared.draining.store(true, Ordering::Release);
    let _ = timeout(ending.lame_duck, acceptor.accept(&listener)).await;
    drop(listener);
    let _ = acceptor.stop.send(());
    timeout(ending.drain, acceptor.stop.closed()).await.is_ok()
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
    shared: Arc<Shared>,
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
    /// Tells connections to end; each has a receiver as long as it is open.
    stop: watch::Sender<()>,
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
        let requests = Requests {
            router: TowerToHyperService::new(router.clone()),
            activity: Arc::clone(activity),
            peer: Peer(peer),
            shared: listed.is_some().then(|| Arc::clone(&self.shared)),
            begun: Arc::clone(&self.begun),
        };
        let stream = Stream::new(stream, Arc::clone(activity), deadlines);
        let (keep_alive, stop) = (listed.is_some(), self.stop.subscribe());
        let http = Http { stream, requests, keep_alive, stop };
        let counted = Counted::new(&self.metrics);
        let task = tokio::spawn(async move {
            let _until_the_end = (listed, counted);
            http.serve().await;
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
