//! End-to-end tests: they see only what an operator sees.
