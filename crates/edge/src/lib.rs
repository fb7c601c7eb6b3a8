//! HTTP in: listen, TLS, route, balance, forward, drain
