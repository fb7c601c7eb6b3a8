//! The shared nouns: ids, names, specs, states
