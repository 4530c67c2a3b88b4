//! Files out of a container that has ended, from the archives that Docker makes of a path in it. They are read as they
//! come and never unpacked: of an entry its name, its size and its bytes are looked at, and only a regular file's.

use bollard::Docker as Client;
use bollard::query_parameters::{ContainerArchiveInfoOptions, DownloadFromContainerOptions};
use common::{Artifacts, StepId, StepSpec};
use futures_util::StreamExt as _;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout_at};

use super::super::super::artifacts::{Look, Taker, Wanted};
use super::super::super::pieces::{Piece, Pieces};
use super::super::Fault;
use super::Docker;
use super::client::{Trouble, trouble_of};
use super::watch;

/// Docker sends all that is in a folder, also what nobody wants: no more than this is read for one pattern.
const MOST_ARCHIVE_BYTES: u64 = 256 * 1024 * 1024;

/// Pieces of an archive that may wait to be looked at.
const PIECES: usize = 16;

const ROUNDED: Duration = Duration::from_secs(2);

/// As Docker writes modes.
const LINK: u32 = 1 << 27;

impl Docker {
    pub(in super::super) async fn take_artifacts(
        &self,
        step: &StepId,
        spec: &StepSpec,
        to: &Path,
    ) -> Result<Artifacts, Fault> {
        let client = self.client().await?;
        let mut container = self.container_name(step);
        let mut found = self.inspect(&client, &container).await;
        if let Err(Trouble::NotFound(_)) = found
            && let Some(renamed) = self.renamed(&client, step).await.map_err(|trouble| self.fault(trouble))?
        {
            container = renamed;
            found = self.inspect(&client, &container).await;
        }
        let found = found.map_err(|trouble| self.fault(trouble))?;
        // Docker notes it a little late, and an archive has whole seconds.
        let since = watch::started_at(&found).map(|started| started - ROUNDED);
        let workdir = found.config.and_then(|config| config.working_dir).unwrap_or_default();
        let wanted = Arc::new(Wanted::new(&workdir, spec).map_err(Fault::not_taken)?);
        let mut taker = Taker::new(to, &wanted, since).map_err(Fault::not_taken)?;
        for number in 0..wanted.looks().len() {
            taker = self.look(&client, &container, &wanted, number, taker).await?;
        }
        Ok(taker.end())
    }

    async fn look(
        &self,
        client: &Client,
        container: &str,
        wanted: &Arc<Wanted>,
        number: usize,
        mut taker: Taker,
    ) -> Result<Taker, Fault> {
        let look = &wanted.looks()[number];
        match self.leads_there(client, container, look).await {
            Ok(None) => {}
            Ok(Some(trouble)) => {
                if let Some(words) = trouble {
                    look.leads_nowhere(&mut taker, words);
                }
                return Ok(taker);
            }
            Err(trouble) => return Err(self.fault(trouble)),
        }
        let mut path = look.words();
        if look.root.len() == look.trusted {
            // The folder itself, also where its name is a link.
            path = format!("{}/.", path.trim_end_matches('/'));
        }
        let (mut taker, linked) = self.archive(client, container, path, wanted, number, taker).await?;
        // In an archive the second name of a file has no bytes; alone it does.
        for path in linked {
            if taker.goes_on() && !taker.has_met(&path) {
                (taker, _) = self.archive(client, container, path, wanted, number, taker).await?;
            }
        }
        Ok(taker)
    }

    /// Nothing where there is something to look at, and no link on the way; else perhaps what to say of it.
    async fn leads_there(
        &self,
        client: &Client,
        container: &str,
        look: &Look,
    ) -> Result<Option<Option<String>>, Trouble> {
        for end in look.trusted + 1..=look.root.len() {
            let path = format!("/{}", look.root[..end].join("/"));
            let options = ContainerArchiveInfoOptions { path: path.clone() };
            let asked = client.get_container_archive_info(container, Some(options));
            match self.call(self.deadlines().look, asked).await {
                Ok(found) if found.file_mode & LINK != 0 => {
                    return Ok(Some(Some(format!("{path} is a link, and none is followed"))));
                }
                Ok(_) => {}
                Err(Trouble::NotFound(_)) => return Ok(Some(None)),
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(None)
    }

    /// Offers what is wanted of the archive of one path; answers also with the further names of files in it.
    async fn archive(
        &self,
        client: &Client,
        container: &str,
        path: String,
        wanted: &Arc<Wanted>,
        number: usize,
        taker: Taker,
    ) -> Result<(Taker, Vec<String>), Fault> {
        let root = path.trim_end_matches("/.").trim_end_matches('/').to_owned();
        let until = Instant::from_std(taker.until());
        // By its own limit: such a call is as long as what is sent is large.
        let client = client.clone().with_timeout(crate::limits::ARTIFACTS);
        let options = DownloadFromContainerOptions { path };
        let mut archive = Box::pin(client.download_from_container(container, Some(options)));
        let (send, pieces) = Pieces::channel(PIECES);
        let wanted = wanted.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut looking = Looking { look: &wanted.looks()[number], root, taker, linked: Vec::new() };
            if let Err(error) = looking.read(Bounded { pieces, bytes: 0 }) {
                looking.taker.trouble(format!("keeping files of {}: {error}", looking.look.words()));
            }
            (looking.taker, looking.linked)
        });
        let broke = loop {
            match timeout_at(until, archive.next()).await {
                Ok(Some(Ok(piece))) => {
                    if send.send(Piece::Bytes(piece)).await.is_err() {
                        break None;
                    }
                }
                Ok(Some(Err(error))) => break Some(trouble_of(error)),
                Ok(None) => {
                    // None there to take it: it has seen enough.
                    drop(send.send(Piece::End).await);
                    break None;
                }
                Err(_) => break Some(Trouble::Away("it took too long".to_owned())),
            }
        };
        drop(send);
        let (mut taker, linked) = looking.await.map_err(Fault::not_taken)?;
        match broke {
            // A working directory that is none.
            None | Some(Trouble::NotFound(_)) => {}
            Some(trouble) => taker.trouble(self.fault(trouble).message),
        }
        Ok((taker, linked))
    }
}

struct Looking<'a> {
    look: &'a Look,
    /// Without a slash at its end.
    root: String,
    taker: Taker,
    linked: Vec<String>,
}

impl Looking<'_> {
    fn read(&mut self, pieces: Bounded) -> io::Result<()> {
        let mut archive = tar::Archive::new(pieces);
        for entry in archive.entries()? {
            if !self.taker.goes_on() {
                return Ok(());
            }
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            let name = entry.path_bytes().into_owned();
            let is_second = kind == tar::EntryType::Link;
            if !is_second && !kind.is_file() && kind != tar::EntryType::Continuous {
                continue;
            }
            let Ok(name) = std::str::from_utf8(&name) else {
                if self.look.depth == usize::MAX {
                    self.taker.leave_out_unnamed(&name);
                }
                continue;
            };
            let Some(path) = self.path(name).filter(|path| self.look.wants(path)) else { continue };
            if is_second {
                self.linked.push(path);
                continue;
            }
            let size_bytes = entry.size();
            let modified =
                entry.header().mtime().ok().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            self.taker.offer(&path, size_bytes, modified, &mut entry)?;
        }
        Ok(())
    }

    /// In the container, of a name in the archive: below `./` where a folder itself was asked for, else below the last
    /// name of the path.
    fn path(&self, name: &str) -> Option<String> {
        let last = self.root.rsplit('/').next().unwrap_or_default();
        let below = match name.strip_prefix("./").or_else(|| name.strip_prefix('/')) {
            Some(below) => below,
            None => name.strip_prefix(last)?.trim_start_matches('/'),
        };
        let whole = if below.is_empty() { self.root.clone() } else { format!("{}/{below}", self.root) };
        whole.split('/').skip(1).all(|part| !matches!(part, "" | "." | "..")).then_some(whole)
    }
}

/// Docker may send much more than anybody asked for.
struct Bounded {
    pieces: Pieces,
    bytes: u64,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.pieces.read(into)?;
        self.bytes += count as u64;
        if self.bytes > MOST_ARCHIVE_BYTES {
            let words = format!(
                "more than {} MiB lie there, and not all of it was looked at: name a folder, such as report/**",
                MOST_ARCHIVE_BYTES >> 20
            );
            return Err(io::Error::other(words));
        }
        Ok(count)
    }
}
