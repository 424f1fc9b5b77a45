//! The life of the process: allocator, crypto provider, command line, exit code. What is done is in [`roadstead::cli`].

use std::process::ExitCode;

use roadstead::cli::{Cli, exit};

// A mirror makes and drops buffers on many threads for weeks; jemalloc gives memory back where glibc keeps it.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // rustls asks for the process's provider wherever none is named. There is one, and it is installed before any
    // other thread runs; that somebody was earlier is impossible, and would be no harm.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(answer) => return exit::command_line(&answer),
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => exit::failure(&error),
    }
}
