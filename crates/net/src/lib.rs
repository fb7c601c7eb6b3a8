//! Private networks on this machine and discovery DNS
