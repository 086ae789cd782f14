//! Development tasks: `cargo xtask TASK`. CI calls only these.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the developer")]

mod bench;
mod debian;
mod demo;
mod docs;
mod ebpf;
mod engine;
mod lint;
mod netns;
mod proc;
mod setup;
mod sh;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod weir;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "weir's development tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the other tasks need, where it is missing
    Setup,
    /// Capture real clients on this machine and show what was recorded; needs root
    Demo {
        /// Leave everything running and say how to use it
        #[arg(long)]
        keep: bool,
    },
    /// Build the BPF object
    Ebpf {
        /// Only compare it with the committed one
        #[arg(long)]
        check: bool,
    },
    /// Check formatting and run clippy
    Lint,
    /// Check import order, file length and module headers
    Tidy,
    /// Run tests
    Test {
        #[arg(value_enum, default_value = "all")]
        suite: test::Suite,
    },
    /// Generate docs/configuration.md
    Docs {
        /// Only compare it with the committed one
        #[arg(long)]
        check: bool,
    },
    /// Compare weir with other proxies; needs root
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that `{:?}` adds: the chain of steps says where.
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    sh::watch_signals()?;
    match task {
        Task::Setup => sh::step("setup", setup::run),
        Task::Demo { keep } => sh::step("demo", || demo::run(keep)),
        Task::Ebpf { check } => sh::step("ebpf", || ebpf::run(check)),
        Task::Lint => sh::step("lint", lint::run),
        Task::Tidy => sh::step("tidy", tidy::run),
        Task::Test { suite } => test::run(suite),
        Task::Docs { check } => sh::step("docs", || docs::run(check)),
        Task::Bench(options) => sh::step("bench", || bench::run(&options)),
    }
}
