//! Owns the listening sockets and the data-directory lock; starts and restarts edge and control
