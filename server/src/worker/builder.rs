//! What makes images: the contract that a builder keeps, in prose and in types, as `engine.rs` has it of containers.
//!
//! * What a build sees is a folder of a source and the images that its Dockerfile names. Where all of that is as it was
//!   when an image was made of it, that image is taken, and nothing is built. Builds of the same at the same time are one.
//! * What a build prints comes whole to every step that follows it, or there is a `Gap`; then exactly one of `Made`,
//!   `NotMade` and `Lost`.
//! * `Made` is told on evidence alone: the image is there, was made of this, and has the name that was asked for.
//! * A step that is stopped ends its build if no other follows it; nothing of it is left in the engine then.
//! * No step runs on an image that has files of another source which its own does not lie over.
//! * No image is touched that was not made by a builder of this data directory, and no name of one that no builder made.

use common::{Build, StepId};
use std::sync::Arc;
use tokio::sync::watch;

use super::engine::{Builds, Fake, Fault, News, Running};
use super::sources::Tree;

/// An image to be made.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) step: StepId,
    /// Its name.
    pub(crate) image: String,
    pub(crate) build: Build,
    pub(crate) tree: Arc<Tree>,
}

#[derive(Clone)]
pub(crate) enum Builder {
    Docker(Builds),
    Fake(Fake),
}

impl Builder {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Builder::Docker(_) => "docker",
            Builder::Fake(_) => "fake",
        }
    }

    /// What is there already, at once: nothing is fetched for it, and nothing built.
    pub(crate) async fn look(&self, order: &Order) -> Option<Running> {
        match self {
            Builder::Docker(builds) => builds.look(order).await,
            Builder::Fake(fake) => fake.look(order),
        }
    }

    /// Begins to make the image, or follows who is at it. Dropping the future leaves nothing behind.
    pub(crate) async fn build(
        &self,
        order: &Order,
        news: &watch::Sender<Option<News>>,
    ) -> Result<Running, Fault> {
        match self {
            Builder::Docker(builds) => builds.build(order, news).await,
            Builder::Fake(fake) => fake.build(order),
        }
    }

    /// The step is to end; whether it does is told where its happenings are.
    pub(crate) fn stop(&self, step: &StepId) {
        match self {
            Builder::Docker(builds) => builds.stop(step),
            Builder::Fake(fake) => fake.stop_build(step),
        }
    }

    /// Returns once nothing is left of the step's build that no other step follows.
    pub(crate) async fn remove(&self, step: &StepId) {
        match self {
            Builder::Docker(builds) => builds.remove(step).await,
            Builder::Fake(fake) => fake.stop_build(step),
        }
    }

    /// Lets go of images where there are too many, those first that were not used for longest. `wanted`: does a step
    /// that waits or runs here want the image, by its digest or its name?
    pub(crate) async fn sweep(&self, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<(), Fault> {
        match self {
            Builder::Docker(builds) => builds.sweep(wanted).await,
            Builder::Fake(_) => Ok(()),
        }
    }

    /// How the source of a step is to lie over its image: None where as it is, else by this manifest. A fault where the
    /// step would judge files of another source, which its image may have.
    pub(crate) async fn over(&self, image: &str, tree: Option<&Tree>) -> Result<Option<Arc<Vec<u8>>>, Fault> {
        match self {
            Builder::Docker(builds) => builds.over(image, tree).await,
            Builder::Fake(_) => Ok(None),
        }
    }

    /// A step runs on this image. Those that were used last are kept.
    pub(crate) fn note_use(&self, image_digest: &str) {
        match self {
            Builder::Docker(builds) => builds.note_use(image_digest),
            Builder::Fake(_) => {}
        }
    }
}
