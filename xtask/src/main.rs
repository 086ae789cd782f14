//! Development tasks: `cargo xtask TASK`.
mod ebpf;
mod engine;
mod toolchain;

fn main() -> anyhow::Result<()> {
    let check = std::env::args().any(|arg| arg == "--check");
    if std::env::args().nth(1).as_deref() == Some("setup") {
        return engine::setup().map(drop);
    }
    ebpf::run(check)
}
