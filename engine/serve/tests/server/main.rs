//! The server of a stub, by sockets.

mod apis;
mod common;
mod connections;
mod http;
mod page;
