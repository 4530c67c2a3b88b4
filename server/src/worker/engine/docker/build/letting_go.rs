//! Keeps the images that were built within their bound: those that were not used for longest go first. Only what a builder
//! of this data directory has made, and has no name but those that it gave; what a step may still want stays.

use bollard::Docker as Client;
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};
use common::Reason;
use std::collections::HashMap;
use std::io;

use super::super::super::Fault;
use super::super::client::Trouble;
use super::kept::Image;
use super::{Builds, LABEL};
use crate::limits;

impl Builds {
    /// `wanted`: does a step that waits or runs here want this image, by its id or one of its names?
    pub(crate) async fn sweep(&self, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<(), Fault> {
        let client = self.0.docker.client().await?;
        self.find_lost(&client).await?;
        let images = self.on_disk(|kept| kept.images()).await?;
        let mut bytes: u64 = images.iter().map(|image| image.own_bytes).sum();
        for image in images {
            if bytes <= self.0.bound_bytes {
                break;
            }
            // What a stage of a run has made the next one is about to use.
            let is_recent = image.used.elapsed().is_ok_and(|age| age < limits::BUILD_RECENT);
            if is_recent || wanted(&image.id) || image.names.iter().any(|name| wanted(name)) {
                continue;
            }
            let own_bytes = image.own_bytes;
            if self.let_go(&client, image).await? {
                bytes -= own_bytes;
            }
        }
        Ok(())
    }

    /// A worker may die between the making of an image and writing that down.
    async fn find_lost(&self, client: &Client) -> Result<(), Fault> {
        let docker = &self.0.docker;
        let filters = Some(HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]));
        let options = ListImagesOptions { filters, ..Default::default() };
        let listed = docker.call(docker.deadlines().change, client.list_images(Some(options))).await;
        let known = self.on_disk(|kept| kept.images()).await?;
        for image in listed.map_err(|trouble| docker.fault(trouble))? {
            if known.iter().any(|known| known.id == image.id) {
                continue;
            }
            let Some(label) = image.labels.get(LABEL).filter(|label| self.is_ours(label)) else { continue };
            if self.is_builders(client, &image.id, label).await? {
                let (id, bytes) = (image.id, u64::try_from(image.size).unwrap_or(0));
                self.on_disk(move |kept| kept.add(&id, bytes)).await?;
            }
        }
        Ok(())
    }

    /// Answers whether it is gone.
    async fn let_go(&self, client: &Client, image: Image) -> Result<bool, Fault> {
        let docker = &self.0.docker;
        let Image { id, names, .. } = image;
        let found = match docker.call(docker.deadlines().look, client.inspect_image(&id)).await {
            Ok(found) => Some(found),
            Err(Trouble::NotFound(_)) => None,
            Err(trouble) => return Err(docker.fault(trouble)),
        };
        if let Some(found) = found {
            let tags = found.repo_tags.unwrap_or_default();
            let is_given =
                |tag: &String| names.iter().any(|name| *tag == *name || *tag == format!("{name}:latest"));
            if !tags.iter().all(is_given) {
                // Somebody else has a name for it.
                return Ok(false);
            }
            // The last name goes with its id: what has been a name of this image may be another's by now.
            for name in tags.into_iter().skip(1).chain([id.clone()]) {
                let options = RemoveImageOptions { force: false, noprune: false, platforms: None };
                let removed = client.remove_image(&name, Some(options), None);
                match docker.call(docker.deadlines().change, removed).await {
                    Ok(_) | Err(Trouble::NotFound(_)) => {}
                    // A container runs on it, or somebody has built upon it.
                    Err(Trouble::Conflict(_)) => return Ok(false),
                    Err(trouble) => return Err(docker.fault(trouble)),
                }
            }
            tracing::info!("the image {id} was removed: those that were built take too much");
        }
        self.on_disk(move |kept| kept.forget(&id)).await?;
        Ok(true)
    }

    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&super::Kept) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let builds = self.clone();
        let done = tokio::task::spawn_blocking(move || act(&builds.0.kept)).await;
        done.map_err(io::Error::other).and_then(|done| done).map_err(|error| {
            let message = format!("what is known of built images cannot be read or written: {error}");
            Fault::new(Reason::DiskFull, message, "look at cache/builds in the worker's --data-dir")
        })
    }
}
