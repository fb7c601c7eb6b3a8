//! Managed PostgreSQL: template, create, rotate, destroy
