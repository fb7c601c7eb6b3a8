//! Typed HTTP client of the API
