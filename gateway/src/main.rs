//! The `weir` command: arguments, runtime, exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use weir_gateway::{cli, telemetry};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    telemetry::init_logging();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("starting: {error}")),
    };
    // Not locked: a panic hook or a child may want to print as well.
    let mut out = std::io::stdout();
    match runtime.block_on(cli::dispatch(cli, &mut out)) {
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
