//! An image as Docker has it, for those who run it without Docker: what it says of itself, and all its bytes.

use bytes::Bytes;
use common::Reason;
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

use super::super::Fault;
use super::Docker;
use super::client::{Trouble, trouble_of};

/// What an image says about how its containers run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) volumes: Vec<String>,
}

pub(crate) struct ImageFacts {
    pub(crate) config: ImageConfig,
    /// The hashes of its layers, `sha256:...`, from the lowest.
    pub(crate) layers: Vec<String>,
    pub(crate) size_bytes: u64,
}

impl Docker {
    pub(crate) async fn image_facts(&self, image_id: &str) -> Result<ImageFacts, Fault> {
        let client = self.client().await?;
        let found = self.call(self.deadlines().look, client.inspect_image(image_id)).await;
        let found = found.map_err(|trouble| self.not_saved(image_id, trouble))?;
        let config = found.config.unwrap_or_default();
        Ok(ImageFacts {
            config: ImageConfig {
                env: config.env.unwrap_or_default(),
                user: config.user.unwrap_or_default(),
                workdir: config.working_dir.unwrap_or_default(),
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                volumes: config.volumes.unwrap_or_default(),
            },
            layers: found.root_fs.and_then(|root| root.layers).unwrap_or_default(),
            size_bytes: found.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        })
    }

    /// The archive that `docker save` writes. Between two pieces of it, the first one included, Docker may take as
    /// long as a pull may: older ones write all of it down first.
    pub(crate) async fn save(
        &self,
        image_id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Fault>> + Send + 'static, Fault> {
        let limit = self.deadlines().pull;
        let client = self.client().await?.with_timeout(limit);
        let (docker, image_id) = (self.clone(), image_id.to_owned());
        let pieces = Box::pin(client.export_image(&image_id));
        // The client has to live as long as its stream is read.
        let state = (pieces, client.clone());
        Ok(futures_util::stream::unfold(Some(state), move |state| {
            let (docker, image_id) = (docker.clone(), image_id.clone());
            async move {
                let (mut pieces, client) = state?;
                match tokio::time::timeout(limit, pieces.next()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(piece))) => Some((Ok(piece), Some((pieces, client)))),
                    Ok(Some(Err(error))) => Some((Err(docker.not_saved(&image_id, trouble_of(error))), None)),
                    Err(_) => Some((Err(too_slow(&image_id, limit.as_secs())), None)),
                }
            }
        }))
    }

    fn not_saved(&self, image_id: &str, trouble: Trouble) -> Fault {
        match trouble {
            Trouble::NotFound(message) => Fault::new(
                Reason::ImageNotFound,
                format!("docker has no image {image_id} any more: {message}"),
                "bring that image back, or start a new run",
            ),
            trouble => self.fault(trouble),
        }
    }
}

fn too_slow(image_id: &str, seconds: u64) -> Fault {
    Fault::new(
        Reason::PullTimeout,
        format!("exporting image {image_id} from docker, nothing came for {seconds} s"),
        format!("try it by hand on this worker: docker save {image_id} | wc -c"),
    )
}
