//! What a Docker does to a worker that breaks, hangs, restarts, is meddled with or has no image: whatever it is,
//! a step ends once, with the truth or with a reason why the truth is not known, and nothing is left of it.

mod calls;
mod hands;
mod images;
mod private;
mod proxy;
mod restart;
