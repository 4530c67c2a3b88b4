//! The native engine's parts, by themselves, on the real kernel and with a real Docker. They need root; who is not
//! has no use for that engine.

mod ahead;
mod audit;
mod filter;
mod images;
mod layers;
mod lost;
mod net;
mod tree;
mod unpack;

pub(super) fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        tracing::warn!("left out: only root can unpack images");
    }
    is_root
}
