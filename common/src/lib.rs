//! The dictionary: what boss, worker and page agree on.
