//! Calls that are made again when a stage says that its error may pass.

use std::time::{Duration, Instant};

use paraloom_host::Services as _;
use paraloom_pipeline::Node;
use paraloom_store::Event;

use crate::error::{Result, RunError};
use crate::services::NodeServices;

/// The wait before the second attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How soon a request to stop ends a wait.
const TICK: Duration = Duration::from_millis(50);

/// Makes a call of a stage, and makes it again while its error says that it may pass, as often as the node allows.
pub(crate) fn with_retries<T>(
    node: &Node,
    services: &NodeServices,
    mut call: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let error = match call() {
            Err(error) if error.is_retryable() && attempt <= node.retries => error,
            outcome => return outcome,
        };
        let wait = wait_before(attempt);
        services.send(Event::Retry {
            node: node.name.clone(),
            attempt: attempt + 1,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            message: error.of_the_stage(),
        });
        let end = Instant::now() + wait;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if services.is_cancelled() {
                return Err(RunError::Stopped);
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

fn wait_before(attempt: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits = [1, 2, 3, 7, 8, 40].map(|attempt| wait_before(attempt).as_millis());
        assert_eq!(waits, [500, 1000, 2000, 32_000, 60_000, 60_000]);
    }
}
