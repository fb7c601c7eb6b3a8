//! What every journey leans on: a real Stoa of its own, its CLI, a plain HTTP client, and a census of what is left behind.
