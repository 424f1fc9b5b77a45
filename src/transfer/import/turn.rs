//! How far an import is, for whoever stops the process that runs it.
//!
//! Until its first tag is set an import can be ended, and nothing of it is seen; from then on it is waited for. Owned by `app`,
//! handed to [`super::import`] by `admin`. Blocks nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ImportError;

/// The imports of one mirror: one at a time, since each one takes the disk.
#[derive(Debug, Default)]
pub struct Imports(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    stage: Stage,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// None runs.
    #[default]
    Idle,
    /// Nothing of it is seen yet.
    TakingIn,
    /// Its tags are set.
    Publishing,
}

/// The turn of one import; over when it is dropped.
#[derive(Debug, Default)]
pub struct Turn(Arc<Imports>);

impl Imports {
    /// The turn of an import, unless another one runs.
    pub fn turn(self: &Arc<Self>) -> Option<Turn> {
        let begin = |state: &mut State| {
            let idle = state.stage == Stage::Idle;
            if idle {
                state.stage = Stage::TakingIn;
            }
            idle
        };
        self.0.send_if_modified(begin).then(|| Turn(self.clone()))
    }

    /// From now on none begins to set tags, or does so after its end. One that has begun is waited for, at most `patience`.
    /// Cancel-safe.
    pub async fn stop(&self, patience: Duration) {
        self.0.send_modify(|state| state.stopping = true);
        let stage = self.0.borrow().stage;
        match stage {
            Stage::Idle => {}
            Stage::TakingIn => {
                tracing::warn!(
                    "an import is ended by the stop of the mirror: none of its images is here; import the bundle again"
                );
            }
            Stage::Publishing => {
                let mut state = self.0.subscribe();
                let ended = state.wait_for(|state| state.stage == Stage::Idle);
                if tokio::time::timeout(patience, ended).await.is_err() {
                    tracing::warn!("an import did not set all its tags in time; import the bundle again");
                }
            }
        }
    }
}

impl Turn {
    /// The import is about to set its tags. An error if the mirror stops: nothing may be seen of it then.
    pub(super) fn publish(&self) -> Result<(), ImportError> {
        let publishes = self.0.0.send_if_modified(|state| {
            if !state.stopping {
                state.stage = Stage::Publishing;
            }
            !state.stopping
        });
        if publishes { Ok(()) } else { Err(ImportError::Stopping) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.stage = Stage::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_what_can_be_seen_and_for_nothing_else() {
        let imports = Arc::new(Imports::default());
        let first = imports.turn().unwrap();
        assert!(imports.turn().is_none(), "one at a time");
        first.publish().unwrap();
        let (stopping, began) = (imports.clone(), tokio::time::Instant::now());
        let stop = tokio::spawn(async move { stopping.stop(Duration::from_secs(10)).await });
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!stop.is_finished());
        drop(first);
        stop.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);

        let second = imports.turn().unwrap();
        imports.stop(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed().as_secs(), 3, "nothing of it is seen");
        assert!(matches!(second.publish(), Err(ImportError::Stopping)));
    }
}
