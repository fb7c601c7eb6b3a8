//! Durable facts in SQLite: transactions, revision log, audit chain, sealed secrets
