//! The threads that serve connections: one a core, each with a reactor of its own.
//!
//! A connection stays on the thread that it was given to. Its wake-ups, its buffers and what the CPU remembers of it
//! do not move between cores, and no idle thread is woken to look for work: for sending files that is half of the CPU
//! time. Downloads and everything else that is shared run on the process's main runtime.
//!
//! None is pinned to a core: the kernel moves each to where there is room. Where two share one, they take turns
//! ([`super::turns`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use super::turns::Turns;

/// The threads of one mirror. Dropping this ends them, and with them what they still serve.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    /// Turns true when they are to end. Each holds a receiver, which shows when the last one has gone.
    end: watch::Sender<bool>,
}

/// One thread.
#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Connections that it serves.
    busy: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize) -> io::Result<Self> {
        let turns = Arc::new(Turns::new(count.max(1)));
        let end = watch::Sender::new(false);
        let threads = (0..count.max(1)).map(|number| Worker::start(number, turns.clone(), end.subscribe()));
        Ok(Self { threads: threads.collect::<io::Result<_>>()?, end })
    }

    /// Runs `connection` to its end on the thread that has the fewest. Connections live long and cost alike, so that
    /// counting them balances better than a hash of addresses does.
    pub fn spawn<F>(&self, connection: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(worker) = self.threads.iter().min_by_key(|worker| worker.busy.load(Ordering::Relaxed)) else { return };
        let busy = Busy::new(worker.busy.clone());
        worker.runtime.spawn(async move {
            connection().await;
            drop(busy);
        });
    }

    /// Ends the threads, and waits until they have dropped whatever they still served: each request's account is closed then
    /// (I12). Nothing is served afterwards.
    pub async fn end(&self) {
        self.end.send_replace(true);
        self.end.closed().await;
    }
}

impl Worker {
    fn start(number: usize, turns: Arc<Turns>, mut end: watch::Receiver<bool>) -> io::Result<Self> {
        let others = turns.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name("read")
            .on_thread_unpark(move || turns.begin(number))
            .on_thread_park(move || others.end(number))
            .build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            // An error means that the workers were dropped.
            let _ = runtime.block_on(end.wait_for(|end| *end));
            // Drops the tasks, and waits for no file that one of them reads.
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { runtime: handle, busy: Arc::default() })
    }
}

/// One connection in a worker's count.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn connections_are_spread_and_counted() {
        let workers = Workers::start(3).unwrap();
        let (seen, mut threads) = mpsc::unbounded_channel();
        let (open, _) = tokio::sync::broadcast::channel::<()>(1);
        for _ in 0..9 {
            let (seen, mut open) = (seen.clone(), open.subscribe());
            workers.spawn(move || async move {
                seen.send(thread::current().name().unwrap().to_owned()).unwrap();
                let _ = open.recv().await;
            });
        }
        let mut count: HashMap<String, usize> = HashMap::new();
        for _ in 0..9 {
            *count.entry(threads.recv().await.unwrap()).or_default() += 1;
        }
        assert_eq!(count.into_values().collect::<Vec<_>>(), [3, 3, 3]);
        open.send(()).unwrap();
        while workers.threads.iter().any(|worker| worker.busy.load(Ordering::Relaxed) > 0) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_served_at_the_end_is_dropped_before_it() {
        let workers = Workers::start(2).unwrap();
        let held = Arc::new(());
        for _ in 0..4 {
            let held = held.clone();
            workers.spawn(move || async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        workers.end().await;
        assert_eq!(Arc::strong_count(&held), 1);
        let late = held.clone();
        workers.spawn(move || async move { drop(late) });
        assert_eq!(Arc::strong_count(&held), 1, "nobody serves it");
        workers.end().await;
    }
}
