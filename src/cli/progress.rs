//! The bar of a command that moves many bytes: on a terminal, on standard error; nowhere else.

use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::transfer::input;
use crate::transfer::tar::Input;

/// A bar of `total` bytes; of an unknown number, where that is `None`.
pub(super) fn bar(total: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left")
        }
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes}  {binary_bytes_per_sec}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Opens a bundle; a bar shows how far it has been read, and goes with it.
pub(super) fn open(files: &[PathBuf]) -> io::Result<Box<dyn Input>> {
    let input = input::open(files)?;
    // What comes by a pipe, or compressed, does not tell how much it is.
    let compressed = files.iter().any(|file| file.extension().is_some_and(|extension| extension == "zst"));
    let sizes = files.iter().map(|file| file.metadata().ok().map(|meta| meta.len()));
    let total = if compressed { None } else { sizes.sum() };
    Ok(Box::new(Watched { input, bar: bar(total) }))
}

struct Watched {
    input: Box<dyn Input>,
    bar: ProgressBar,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

impl Input for Watched {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.input.skip(bytes)?;
        self.bar.inc(bytes);
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
