//! The `weir` command: arguments and exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use weir_gateway::{cli, telemetry};

fn main() -> ExitCode {
    let args = cli::oci_runtime::with_alias(std::env::args_os());
    let cli = cli::Cli::parse_from(args);
    telemetry::init_logging();
    // Not locked: a panic hook or a child may want to print as well.
    let mut out = std::io::stdout();
    match cli::run(cli, &mut out) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "the one place that reports a failed command")]
fn failed(what: &str) -> ExitCode {
    eprintln!("weir: {what}");
    ExitCode::FAILURE
}
