//! Development tasks: `cargo xtask TASK`.

mod engine;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("setup") => {
            engine::setup()?;
            Ok(())
        }
        _ => anyhow::bail!("tasks: setup"),
    }
}
