//! bench
use anyhow::Result;
pub fn run(_: &[&str]) -> Result<()> {
    Ok(())
}
