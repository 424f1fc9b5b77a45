//! The thread that writes the log, so that a standard error which nobody reads holds up no request (I11).
//!
//! Lines are appended to one buffer under a lock that is held for a copy of them and never across I/O. The thread takes
//! the whole buffer at a time and then rests for [`REST`]: however many lines there are, it is woken and writes a few
//! hundred times a second. What finds more than [`BEHIND`] bytes waiting is dropped, counted, and told of.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait to be written at most.
const BEHIND: usize = 8 << 20;

/// How long lines gather after a write.
const REST: Duration = Duration::from_millis(5);

/// A buffer that grew beyond this is given back.
const KEEP: usize = 1 << 20;

/// How long the end of the process waits for the last lines.
const LAST: Duration = Duration::from_secs(1);

/// Takes lines. Cheap to clone; all clones share one thread.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Shared>);

/// What was taken is written when this is dropped, if somebody reads it within a second.
#[derive(Debug)]
#[must_use = "lines that wait when the process ends are lost without it"]
pub struct Guard(Writer);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when there is something to do for a thread that waits, and when the thread ends.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Lines dropped since this was last told.
    lost: u64,
    /// The thread waits for a line, and has to be woken.
    idle: bool,
    closing: bool,
    ended: bool,
}

impl Writer {
    /// Starts a thread that writes to `sink`; errors of it are nobody's to hear.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<(Self, Guard)> {
        let writer = Self(Arc::default());
        let shared = writer.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || run(&shared, sink))?;
        Ok((writer.clone(), Guard(writer)))
    }

    /// Takes whole lines, or drops them.
    pub fn take(&self, lines: &[u8]) {
        let mut state = self.0.state.lock();
        if state.waiting.len() + lines.len() > BEHIND {
            state.lost += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            return;
        }
        state.waiting.extend_from_slice(lines);
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.0.changed.notify_all();
        }
    }
}

fn run(shared: &Shared, mut sink: impl Write) {
    let mut lines = Vec::new();
    loop {
        let mut state = shared.state.lock();
        while state.waiting.is_empty() && state.lost == 0 && !state.closing {
            state.idle = true;
            shared.changed.wait(&mut state);
        }
        state.idle = false;
        std::mem::swap(&mut lines, &mut state.waiting);
        let lost = std::mem::take(&mut state.lost);
        if lines.is_empty() && lost == 0 {
            state.ended = true;
            shared.changed.notify_all();
            return;
        }
        drop(state);
        let _ = sink.write_all(&lines).and_then(|()| sink.flush());
        if lines.capacity() > KEEP {
            lines = Vec::new();
        }
        lines.clear();
        if lost > 0 {
            tracing::warn!(lines = lost, "log lines were dropped: standard error is read too slowly");
        }
        shared.changed.wait_while_for(&mut shared.state.lock(), |state| !state.closing, REST);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        state.closing = true;
        shared.changed.notify_all();
        shared.changed.wait_while_for(&mut state, |state| !state.ended, LAST);
    }
}

/// One event's lines: `tracing-subscriber` writes each with one call.
impl Write for &Writer {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.take(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A sink that hands on what it is given, once somebody takes it.
    struct Slow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_order_and_the_last_ones_at_the_end() {
        let (sender, receiver) = mpsc::sync_channel(100_000);
        let (writer, guard) = Writer::start(Slow(sender)).unwrap();
        let mut all = String::new();
        for n in 0..10_000 {
            let line = format!("{n}\n");
            writer.take(line.as_bytes());
            all += &line;
        }
        drop(guard);
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        assert!(String::from_utf8(written).unwrap() == all);
    }

    #[test]
    fn a_sink_that_nobody_reads_costs_lines_and_no_time() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let (writer, guard) = Writer::start(Slow(sender)).unwrap();
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        writer.take(&line);
        // The thread has that one in its hands, and nobody takes it. Until then it would take what is lost for told.
        while !writer.0.state.lock().waiting.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        let more = 3 * BEHIND / line.len();
        (0..more).for_each(|_| writer.take(&line));
        let lines = more + 1;
        let lost = writer.0.state.lock().lost as usize;
        assert!(lost >= lines - 2 * BEHIND / line.len(), "{lost} of {lines} are lost");
        assert!(writer.0.state.lock().waiting.len() <= BEHIND);
        let reader = thread::spawn(move || receiver.iter().flatten().filter(|byte| *byte == b'\n').count());
        drop(guard);
        while !writer.0.state.lock().ended {
            thread::sleep(Duration::from_millis(1));
        }
        drop(writer);
        assert_eq!(reader.join().unwrap(), lines - lost);
    }
}
