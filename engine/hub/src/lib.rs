//! Models and data sets from a Hugging Face hub.
//!
//! A [`Reference`] is what a pipeline writes: `hf://owner/name@revision`. [`Hub::pin`] asks the
//! hub which commit that means now, [`Hub::fetch`] brings the files of a commit onto this
//! machine, and [`Hub::cached`] says without any network what is here already. [`Hub::publish`] goes the other way. Files lie in
//! the layout of Python's `huggingface_hub`, so that both share one cache.
//!
//! The crate prints nothing and reads no environment: everything comes in through
//! [`Settings`], everything goes out through [`Watch`].

mod api;
mod cache;
mod digest;
mod download;
mod error;
mod http;
mod hub;
mod partial;
mod publish;
mod reference;
mod select;
mod settings;

pub use error::{HubError, Result};
pub use hub::{Cached, Hub, Pinned};
pub use publish::{Published, Upload};
pub use reference::{Kind, Reference, ReferenceError};
pub use settings::{Notice, Retry, Settings, Token, Watch};
pub use ureq::Proxy;
