//! HTTP on one connection. While a client asks for nothing, there is no more of it than its socket: hyper, which keeps 16 KiB of
//! buffers for each connection, comes with the first byte of a request and goes after the last one of an answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio::task::yield_now;

use crate::api::is_health_check;
use crate::connection::{Activity, InRequest, Stream};
use crate::middleware::refused_at_once;
use crate::problem::of_http2;
use crate::shared::Shared;

/// Bytes of the head of a request at most.
const MAX_HEAD: usize = 64 << 10;
/// Bytes that are read ahead on a connection.
pub(crate) const MAX_BUFFER: usize = MAX_HEAD + (8 << 10);

/// A connection that is served.
pub(crate) struct Http {
    pub(crate) stream: Stream,
    pub(crate) requests: Requests,
    /// Whether it may ask again.
    pub(crate) keep_alive: bool,
    /// Changes when the server ends.
    pub(crate) stop: watch::Receiver<()>,
}

impl Http {
    /// Serves the connection until the client is gone, breaks the rules or takes too long, or the server ends.
    pub(crate) async fn serve(self) {
        let Self { mut stream, mut requests, keep_alive, mut stop } = self;
        let mut http = Builder::new();
        // Deadlines are those of the stream.
        http.header_read_timeout(None)
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_BUFFER)
            .keep_alive(keep_alive);
        let activity = Arc::clone(stream.activity());
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                came = stream.wait() => match came {
                    Ok(false) => {}
                    Ok(true) => {
                        let _ = stream.refuse(&of_http2()).await;
                        return;
                    }
                    Err(_) => return,
                },
            }
            let connection = http.serve_connection(TokioIo::new(stream), requests);
            // On the heap, so that a connection that waits has no room for it.
            let connection = Box::pin(busy(connection, Arc::clone(&activity), stop.clone()));
            match connection.await {
                Some(parts) => (stream, requests) = parts,
                None => return,
            }
        }
    }
}

/// Serves requests until there is none. `None`: the connection has ended.
async fn busy(
    mut connection: Connection<TokioIo<Stream>, Requests>,
    activity: Arc<Activity>,
    mut stop: watch::Receiver<()>,
) -> Option<(Stream, Requests)> {
    let until_idle = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        // The client has disconnected, or did not keep to HTTP and was told so.
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if activity.is_idle() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    let is_idle = tokio::select! {
        is_idle = until_idle => Some(is_idle),
        _ = stop.changed() => None,
    };
    match is_idle {
        Some(true) => {
            let parts = connection.into_parts();
            Some((parts.io.into_inner().followed_by(parts.read_buf), parts.service))
        }
        Some(false) => None,
        None => {
            // What was asked is answered.
            Pin::new(&mut connection).graceful_shutdown();
            let _ = connection.await;
            None
        }
    }
}

/// The requests of one connection.
pub(crate) struct Requests {
    pub(crate) router: TowerToHyperService<Router>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) peer: Peer,
    /// Where requests for work may be refused before they are routed.
    pub(crate) shared: Option<Arc<Shared>>,
    /// Places for requests that begin.
    pub(crate) begun: Arc<Semaphore>,
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
        let shared = self.shared.clone();
        let begun = (!is_health_check(request.uri().path())).then(|| Arc::clone(&self.begun));
        Box::pin(async move {
            let in_request = activity.request(has_body);
            activity.taken().await;
            // Requests that came in one go take turns with other connections.
            if let Some(begun) = begun {
                let _place = begun.acquire().await;
                yield_now().await;
            }
            let refused = shared.and_then(|shared| refused_at_once(&shared, &request));
            if let Some(response) = refused {
                return Ok(response.map(|body| Answer { body, _in_request: in_request }));
            }
            let request = request.map(|body| Asked { body, activity });
            let response = router.call(request).await?;
            Ok(response.map(|body| Answer { body, _in_request: in_request }))
        })
    }
}

/// The body of a request, whose end is noted.
struct Asked {
    body: Incoming,
    activity: Arc<Activity>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.activity.read();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. The request is over when it is dropped.
pub(crate) struct Answer {
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
