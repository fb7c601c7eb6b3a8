//! Wire types and the endpoint list
