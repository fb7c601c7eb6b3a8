//! demo
use anyhow::Result;
pub fn run() -> Result<()> {
    Ok(())
}
pub fn stop() -> Result<()> {
    Ok(())
}
