//! A step's source, copied into its container before that starts: an archive that is made as it is sent, of the tree
//! as this worker has it. What the image has there stays beneath it; what is written goes with the container.

use bollard::Docker as Client;
use bollard::query_parameters::{ContainerArchiveInfoOptions, UploadToContainerOptions};
use std::io;

use super::super::{Fault, Tree};
use super::Docker;
use super::archive::{self, Archive};
use super::client::Trouble;
use crate::limits;

/// As in a tree of ours: whoever the command runs as, it can make its own files in there.
const FOLDER_MODE: u32 = 0o777;

impl Docker {
    pub(super) async fn copy_source(
        &self,
        client: &Client,
        container: &str,
        tree: &Tree,
        at: &str,
    ) -> Result<(), Fault> {
        let options = ContainerArchiveInfoOptions { path: at.to_owned() };
        let looked = client.get_container_archive_info(container, Some(options));
        let is_there = match self.call(self.deadlines().look, looked).await {
            Ok(_) => true,
            Err(Trouble::NotFound(_)) => false,
            Err(trouble) => return Err(self.start_failed(trouble)),
        };
        let read = |error| {
            let message = format!("its source cannot be read: {error}");
            self.start_failed(Trouble::Refused { status: 0, message })
        };
        let (manifest, files) = (tree.manifest().map_err(read)?, tree.files());
        let at = at.trim_start_matches('/').as_bytes().to_vec();
        let make = move |archive: &mut Archive| {
            if !is_there {
                archive.folder(&at)?;
            }
            archive.within = [&at[..], b"/"].concat();
            archive.tree(&manifest, &files)
        };
        self.send_archive(client, container, make).await
    }

    /// Makes a folder that everybody may write to. Where it cannot be made, whoever writes there says so.
    pub(super) async fn open_folder(&self, client: &Client, container: &str, path: &str) {
        let path = path.trim_start_matches('/').as_bytes().to_vec();
        drop(self.send_archive(client, container, move |archive| archive.folder(&path)).await);
    }

    /// Has an archive unpacked in the container's root: in any other folder, links that lead out of that are refused.
    async fn send_archive(
        &self,
        client: &Client,
        container: &str,
        make: impl FnOnce(&mut Archive) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Fault> {
        let (body, making) = archive::stream(FOLDER_MODE, make);
        let options = UploadToContainerOptions { path: "/".to_owned(), ..Default::default() };
        // By its own limit: such a call is as long as what is sent is large.
        let client = client.clone().with_timeout(limits::DOCKER_COPY);
        let sent = client.upload_to_container(container, Some(options), bollard::body_stream(body));
        let sent = self.call(limits::DOCKER_COPY, sent).await;
        // Where Docker refused it, the making ends because nobody takes the rest; why it refused is what counts.
        let made = making.await.unwrap_or_else(|error| Err(error.to_string()));
        sent.map_err(|trouble| self.start_failed(trouble))?;
        // A part of an archive may be an archive too.
        made.map_err(|message| {
            let message = format!("its source could not be copied: {message}");
            self.start_failed(Trouble::Refused { status: 0, message })
        })
    }
}
