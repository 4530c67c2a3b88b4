//! The process that runs steps.
