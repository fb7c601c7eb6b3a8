//! What to do next, decided purely: rollout, restart, drain, pruning
