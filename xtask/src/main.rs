//! Development tasks: `cargo xtask TASK`.
mod ebpf;
mod toolchain;

fn main() -> anyhow::Result<()> {
    let check = std::env::args().any(|arg| arg == "--check");
    ebpf::run(check)
}
