//! An attention plan, with the forms that backends cache.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use paraloom_t5_kernels::{
    buckets::Buckets,
    dropout::Dropout,
    plan::{AttentionPlan as Plan, Segment},
};

/// An attention operation over a batch. Clones share the cached forms: the layers of a model have the same plan but for dropout.
#[derive(Debug, Clone)]
pub struct AttentionPlan {
    plan: Plan,
    /// The form for torch.
    #[cfg(feature = "torch")]
    pub(super) layout: Arc<OnceLock<super::native::Layout>>,
    /// The form for other devices.
    pub(super) portable: Arc<OnceLock<super::portable::Layout>>,
}

impl AttentionPlan {
    /// Attention of `heads` without dropout.
    pub fn new(
        heads: usize,
        segments: impl Into<Arc<[Segment]>>,
        causal: bool,
        buckets: Option<Arc<Buckets>>,
    ) -> Self {
        Self {
            plan: Plan { heads, segments: segments.into(), causal, buckets, dropout: None },
            #[cfg(feature = "torch")]
            layout: Arc::default(),
            portable: Arc::default(),
        }
    }

    /// The same attention with this dropout.
    #[must_use]
    pub fn with_dropout(&self, dropout: Option<Dropout>) -> Self {
        let mut plan = self.clone();
        plan.plan.dropout = dropout;
        plan
    }
}

impl Deref for AttentionPlan {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}
