//! Telling the service manager how far the mirror is (sd_notify(3)): that it serves, that it reads its configuration again,
//! that it ends.
//!
//! Used by `serve`. Whoever waits for the mirror, as `systemctl start` and units ordered after it do with `Type=notify`, waits
//! until it serves. Where `NOTIFY_SOCKET` is not set nobody is told. If telling fails, that is logged, and ends nothing.

use sd_notify::NotifyState;

/// It serves: for the first time, or with what it has read.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration; [`ready`] follows.
pub(super) fn reloading() {
    // `Type=notify-reload` knows by the time that this is the answer to its signal.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told"),
    }
}

/// It ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // A datagram waits only for a manager that has many of them unread (I11).
    if let Err(error) = tokio::task::block_in_place(|| sd_notify::notify(state)) {
        tracing::warn!(%error, ?state, "the service manager cannot be told");
    }
}
