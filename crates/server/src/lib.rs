//! Endpoints: decode, authorise, call one use case, encode
