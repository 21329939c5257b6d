//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::access::{AccessLog, Ids};
use crate::body::Budget;
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::page::Page;
use crate::queue::Queue;
use crate::{About, Settings, openapi};

/// State shared by all requests.
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) queue: Queue,
    pub(crate) guard: Guard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) page: Page,
    pub(crate) timeout: Duration,
    pub(crate) budget: Budget,
    pub(crate) ids: Ids,
    pub(crate) log: Option<AccessLog>,
    pub(crate) openapi: Value,
    pub(crate) started: SystemTime,
    /// Set when the server shuts down.
    pub(crate) draining: AtomicBool,
}

/// A model, as a request uses it.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) number: usize,
}

impl<'a> Chosen<'a> {
    pub(crate) fn about(self) -> &'a About {
        self.shared.models.get(self.number)
    }
}

impl Shared {
    /// The model of this number.
    pub(crate) fn model(&self, number: usize) -> Chosen<'_> {
        Chosen { shared: self, number }
    }

    pub(crate) fn new(models: Models, queue: Queue, settings: &Settings) -> Self {
        Self {
            queue,
            guard: Guard::new(settings.bind, settings.token.as_deref(), &settings.hosts),
            metrics: Arc::new(Metrics::new(&models)),
            page: Page::new(&models, settings.token.is_some()),
            timeout: settings.timeout,
            budget: Budget::new(),
            ids: Ids::new(),
            log: settings.log.clone(),
            openapi: openapi::document(&models, settings.token.is_some()),
            started: SystemTime::now(),
            draining: AtomicBool::new(false),
            models,
        }
    }
}
