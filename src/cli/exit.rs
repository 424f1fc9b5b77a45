//! How the process ends. `--help` documents these codes, so scripts and units rely on them.

use std::process::ExitCode;

use crate::app::StartError;
use crate::causes;
use crate::config::ConfigError;
use crate::telemetry::TelemetryError;

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// `EX_CONFIG` of sysexits.h. A unit can say `RestartPreventExitStatus=64 78`: trying again will not help.
const CONFIG: u8 = 78;

/// Answers `--help` and `--version`, or says what is wrong with the command line.
pub fn command_line(answer: &clap::Error) -> ExitCode {
    // Nobody may be reading.
    let _ = answer.print();
    if answer.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Says why a command failed.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    super::tell(causes::told(error.as_ref()));
    let of_start =
        |cause: &StartError| matches!(cause, StartError::Config(_) | StartError::Certificates(_) | StartError::Upstream(_));
    let configuration = error.chain().any(|cause| {
        cause.is::<ConfigError>() || cause.is::<TelemetryError>() || cause.downcast_ref::<StartError>().is_some_and(of_start)
    });
    if configuration { ExitCode::from(CONFIG) } else { ExitCode::FAILURE }
}
