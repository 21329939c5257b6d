//! One connection: what it is doing, the deadlines of what it is doing, and answers to what is no HTTP.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::problem;

/// How long a connection may do what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// From the first byte of a request, or from the start of a connection, to the end of the head.
    pub(crate) head: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// Without the client taking a byte of an answer.
    pub(crate) write: Duration,
}

/// How long, and for how many bytes, a client that is told no may go on sending before the connection is cut. Cut at
/// once, the answer could be lost with what it was sending.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 4 << 20);

/// What a client begins with that takes it for known that a server speaks HTTP/2.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// A part of the head of a request came.
    Head,
    /// A request is read, worked on or answered.
    Request,
    /// It waits for the next request.
    Idle,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Since when the client has taken nothing of what is to be written.
    blocked: Option<Instant>,
    /// The last bytes that came.
    tail: [u8; 4],
    /// Whether the request has a body.
    has_body: bool,
    /// Whether all of the request was read: one may be answered before.
    is_read: bool,
    /// Nothing more is answered.
    is_ending: bool,
    /// Wakes the connection's task.
    task: Option<Waker>,
}

impl State {
    /// When the connection is closed unless something comes.
    fn deadline(&self, deadlines: &Deadlines) -> Option<Instant> {
        match self.phase {
            Phase::New | Phase::Head => Some(self.since + deadlines.head),
            Phase::Idle => Some(self.since + deadlines.idle),
            Phase::Request => None,
        }
    }
}

/// What a connection is doing, as its stream, its requests and the table of connections see it.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    unblocked: Notify,
}

impl Activity {
    pub(crate) fn new() -> Self {
        let state = State {
            phase: Phase::New,
            since: Instant::now(),
            blocked: None,
            tail: [0; 4],
            has_body: false,
            is_read: true,
            is_ending: false,
            task: None,
        };
        Self { state: Mutex::new(state), unblocked: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state();
        (state.phase, state.since) = (phase, Instant::now());
    }

    /// A request has begun; it is over when the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>, has_body: bool) -> InRequest {
        self.enter(Phase::Request);
        let mut state = self.state();
        (state.has_body, state.is_read) = (has_body, !has_body);
        drop(state);
        InRequest(Arc::clone(self))
    }

    /// The body of the request was read to its end.
    pub(crate) fn read(&self) {
        self.state().is_read = true;
    }

    /// Bytes came.
    fn received(&self, bytes: &[u8]) {
        let phase = {
            let mut state = self.state();
            let last = &bytes[bytes.len().saturating_sub(4)..];
            state.tail.rotate_left(last.len());
            state.tail[4 - last.len()..].copy_from_slice(last);
            state.phase
        };
        if matches!(phase, Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// The request was answered.
    fn answered(&self) {
        let state = self.state();
        // Requests without a body end with an empty line. If something else came last, it is a part of another one. With a
        // body that cannot be told here.
        let has_more = !state.has_body && state.tail != *b"\r\n\r\n";
        drop(state);
        self.enter(if has_more { Phase::Head } else { Phase::Idle });
        // To read on, with another deadline.
        if let Some(task) = self.state().task.take() {
            task.wake();
        }
    }

    /// When the connection is closed unless something comes. The task is woken when that changes.
    fn read_deadline(&self, deadlines: &Deadlines, task: &Waker) -> Option<Instant> {
        let mut state = self.state();
        state.task = Some(task.clone());
        state.deadline(deadlines)
    }

    /// Whether it waits for a request: all of the one before was read, and all of its answer was taken.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        let is_over = state.is_read && state.blocked.is_none() && !state.is_ending;
        is_over && matches!(state.phase, Phase::New | Phase::Idle)
    }

    /// The client takes nothing; since when.
    fn block(&self) -> Instant {
        *self.state().blocked.get_or_insert_with(Instant::now)
    }

    fn unblock(&self) {
        if self.state().blocked.take().is_some() {
            self.unblocked.notify_waiters();
        }
    }

    /// Returns when nothing is left to be written of the answer before, so that a client that asks and does not read has
    /// one answer in memory and not thousands.
    pub(crate) async fn taken(&self) {
        loop {
            let unblocked = self.unblocked.notified();
            if self.state().blocked.is_none() {
                return;
            }
            unblocked.await;
        }
    }

    /// Whether the connection can be closed in favour of another client, and since when: first those between requests,
    /// then those on which nothing has moved for at least `stalled`.
    pub(crate) fn expendable(&self, stalled: Duration) -> Option<(u8, Instant)> {
        let state = self.state();
        match (state.phase, state.blocked) {
            (Phase::Idle, None) => Some((0, state.since)),
            (Phase::Request, None) => None,
            (_, Some(since)) => (since.elapsed() >= stalled).then_some((1, since)),
            (Phase::New | Phase::Head, None) => {
                (state.since.elapsed() >= stalled).then_some((1, state.since))
            }
        }
    }
}

/// A request on a connection.
#[derive(Debug)]
pub(crate) struct InRequest(Arc<Activity>);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The stream of a connection, with deadlines.
pub(crate) struct Stream {
    tcp: TcpStream,
    activity: Arc<Activity>,
    deadlines: Deadlines,
    /// What was read before and belongs to the next request.
    ahead: Bytes,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// An answer that is written in the place of one without a body, and how much of it was.
    instead: Option<(Vec<u8>, usize)>,
    /// When the connection is cut, and how many bytes may still come.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream, activity: Arc<Activity>, deadlines: Deadlines) -> Self {
        Self {
            tcp,
            activity,
            deadlines,
            ahead: Bytes::new(),
            read_timer: None,
            write_timer: None,
            instead: None,
            linger: None,
        }
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// The stream between requests, with what was read of the next one.
    pub(crate) fn followed_by(self, ahead: Bytes) -> Self {
        // Some clients end a body with a line that is not part of it.
        let is_blank = ahead.iter().all(|byte| b"\r\n".contains(byte));
        let ahead = if is_blank { Bytes::new() } else { ahead };
        Self { ahead, read_timer: None, write_timer: None, ..self }
    }

    /// Waits for a request, without room for what may come. Whether it is one of HTTP/2, which can only be the first.
    ///
    /// # Errors
    /// Nothing came in time, or the socket is of no more use.
    pub(crate) async fn wait(&self) -> Result<bool> {
        if !self.ahead.is_empty() {
            return Ok(false);
        }
        let (deadline, is_new) = {
            let state = self.activity.state();
            (state.deadline(&self.deadlines), state.phase == Phase::New)
        };
        let came = async {
            if !is_new {
                return self.tcp.readable().await.map(|()| false);
            }
            let mut begin = [0; HTTP2.len()];
            let length = self.tcp.peek(&mut begin).await?;
            Ok(begin[..length] == *HTTP2)
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, came).await?,
            None => came.await,
        }
    }

    /// Writes a last answer and ends the connection.
    pub(crate) async fn refuse(mut self, answer: &[u8]) -> Result<()> {
        self.write_all(answer).await?;
        self.shutdown().await
    }

    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match Pin::new(&mut self.tcp).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.activity.unblock();
                Poll::Ready(written)
            }
            Poll::Pending => {
                let deadline = self.activity.block() + self.deadlines.write;
                ready!(expires(&mut self.write_timer, deadline, cx));
                Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read")))
            }
        }
    }
}

/// Ready once `deadline` is over; wakes the task then.
fn expires(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(cx)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let bytes = this.ahead.split_to(into.remaining().min(this.ahead.len()));
            this.activity.received(&bytes);
            into.put_slice(&bytes);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.tcp).poll_read(cx, into) {
            if let Some(bytes) = into.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
                this.activity.received(bytes);
            }
            return Poll::Ready(read);
        }
        let Some(deadline) = this.activity.read_deadline(&this.deadlines, cx.waker()) else {
            return Poll::Pending;
        };
        ready!(expires(&mut this.read_timer, deadline, cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not ask")))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() {
            this.instead = problem::of_the_parser(bytes).map(|answer| (answer, 0));
        }
        let Some((answer, mut written)) = this.instead.take() else {
            return this.write(cx, bytes);
        };
        while written < answer.len() {
            match this.write(cx, &answer[written..]) {
                Poll::Ready(Ok(more)) => written += more,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.instead = Some((answer, written));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        this.activity.state().is_ending = true;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.tcp).poll_shutdown(cx))?;
            let (time, bytes) = LINGER;
            this.linger = Some((Box::pin(sleep_until(Instant::now() + time)), bytes));
        }
        let Some((timer, left)) = &mut this.linger else { return Poll::Ready(Ok(())) };
        let mut unread = [0; 4096];
        loop {
            let mut into = ReadBuf::new(&mut unread);
            match Pin::new(&mut this.tcp).poll_read(cx, &mut into) {
                Poll::Ready(Ok(()))
                    if !into.filled().is_empty() && into.filled().len() <= *left =>
                {
                    *left -= into.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return timer.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
