//! Images from Dockerfiles, by the builder that every Docker Engine has in its API.
//!
//! An image is found again by a key: the hash of all that its build sees. That a key has an image is written down here
//! once the image was seen to be made of just that (`build/kept.rs`); labels alone would not do, as images that people
//! build upon ours have them too. Docker is never told the name: it is given to the image when that is there, and only
//! where it is nobody else's.

mod baked;
mod context;
mod dockerfile;
mod follow;
mod ignore;
mod kept;
mod letting_go;
mod making;

use bollard::Docker as Client;
use bollard::models::ImageInspect;
use bollard::query_parameters::TagImageOptions;
use common::{Build, Manifest, Reason, StepId, Stream, TreeId};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::{AHEAD, Fault, Happening, News, Running, Tree};
use super::client::Trouble;
use super::{Docker, images};
use crate::worker::builder::Order;
use baked::{Baked, Over};
use context::{Context, Unseen};
use dockerfile::{Bases, Dockerfile};
use follow::{End, Follower, Next, Work};
use kept::Kept;
use making::Making;

/// On each image of ours, and by inheritance on what others build upon it: whose, and its key.
const LABEL: &str = "bettertest.build";

/// At the end of the label of an image whose files may be older than those of a run: it is of use with a source only.
const OLDER: &str = ".older";

/// So many are more than the stages of a few runs have.
const HASHES: usize = 32;

/// All builds of one worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Builds(Arc<Inner>);

struct Inner {
    docker: Docker,
    /// The instance of the data directory, whose images all of its workers share.
    owner: String,
    kept: Kept,
    /// What all images together may have of their own.
    bound_bytes: u64,
    /// What the files come to of which images were asked for last. A tree of many thousand is gone through once.
    hashes: Mutex<VecDeque<(Build, [u8; 32])>>,
    overs: Mutex<VecDeque<Known>>,
    /// Those under way, by key and what else counts.
    works: Mutex<HashMap<String, Arc<Work>>>,
    following: Mutex<HashMap<StepId, Following>>,
}

/// How the source in this folder lies over an image: None where as it is.
struct Known {
    image: String,
    files: PathBuf,
    over: Option<Arc<Vec<u8>>>,
}

#[derive(Clone)]
struct Following {
    stop: CancellationToken,
    /// Nothing is left of it.
    through: CancellationToken,
}

/// What a build sees, but for the images that it builds upon.
struct Seen {
    context: Context,
    dockerfile: Dockerfile,
    hash: [u8; 32],
    /// Where the hash is not of all files.
    baked: Option<Baked>,
}

/// The images that a build begins with: name and id.
type BaseIds = Vec<(String, String)>;

/// To whom a name belongs.
enum Owner {
    Nobody,
    /// The very image that is to have it.
    Itself,
    /// An image that a builder made, be it that of another data directory: there the run has it by its id.
    Builders,
}

impl Builds {
    /// `folder`: shared by all workers of the data directory `owner`.
    pub(crate) fn open(docker: Docker, folder: &Path, owner: &str, bound_bytes: u64) -> io::Result<Builds> {
        let (kept, owner) = (Kept::open(folder)?, owner.to_owned());
        Ok(Builds(Arc::new(Inner {
            docker,
            owner,
            kept,
            bound_bytes,
            hashes: Mutex::default(),
            overs: Mutex::default(),
            works: Mutex::default(),
            following: Mutex::default(),
        })))
    }

    pub(crate) async fn look(&self, order: &Order) -> Option<Running> {
        let client = self.0.docker.client().await.ok()?;
        let Ok(Ok(seen)) = self.see(order).await else { return None };
        let bases = self.bases(&client, &seen, None).await.ok()??;
        let key = key(&seen, &bases);
        let image = self.find(&client, &key, &seen).await.ok()??;
        self.name(&client, &order.image, &image).await.ok()?;
        Some(unchanged(&key, &order.image, image))
    }

    pub(crate) async fn build(
        &self,
        order: &Order,
        news: &watch::Sender<Option<News>>,
    ) -> Result<Running, Fault> {
        let client = self.0.docker.client().await?;
        let seen = match self.see(order).await? {
            Ok(seen) => seen,
            Err(wrong) => return Ok(not_begun(&wrong)),
        };
        // Before the work, not after it.
        self.owner_of(&client, &order.image, None).await?;
        let bases = self.bases(&client, &seen, Some(news)).await?.unwrap_or_default();
        let key = key(&seen, &bases);
        if let Some(image) = self.find(&client, &key, &seen).await? {
            self.name(&client, &order.image, &image).await?;
            return Ok(unchanged(&key, &order.image, image));
        }
        // Of two sources only those builds are one in which all files are the same.
        let work = match &seen.baked {
            Some(baked) => format!("{key} {}", TreeId::of(&baked.files)),
            None => key.clone(),
        };
        let follower = self.join(&work, || Making::new(self.clone(), client, seen, bases, key.clone()));
        Ok(self.follow(order, &key, follower))
    }

    pub(crate) fn stop(&self, step: &StepId) {
        if let Some(following) = lock(&self.0.following).get(step) {
            following.stop.cancel();
        }
    }

    pub(crate) async fn remove(&self, step: &StepId) {
        let following = lock(&self.0.following).get(step).cloned();
        if let Some(following) = following {
            following.stop.cancel();
            following.through.cancelled().await;
        }
    }

    pub(crate) fn note_use(&self, image: &str) {
        self.0.kept.used(image);
    }

    /// Or what is wrong with its files, in words for who wrote them.
    async fn see(&self, order: &Order) -> Result<Result<Seen, String>, Fault> {
        let (builds, tree, build) = (self.clone(), order.tree.clone(), order.build.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let context = Context::look(tree, &build)?;
            let dockerfile = Dockerfile::read(&context.dockerfile);
            let (hash, baked) = match &build.rebuild_on {
                Some(rebuild_on) => context.named(rebuild_on).map(|(hash, baked)| (hash, Some(baked)))?,
                None => (builds.hash(&context, build)?, None),
            };
            Ok(Seen { context, dockerfile, hash, baked })
        });
        match looked.await.unwrap_or_else(|error| Err(Unseen::Io(io::Error::other(error)))) {
            Ok(seen) => Ok(Ok(seen)),
            Err(Unseen::Wrong(wrong)) => Ok(Err(wrong)),
            Err(Unseen::Io(error)) => Err(Fault::new(
                Reason::Internal,
                format!("the source cannot be read: {error}"),
                "run it again; the worker's log says more",
            )),
        }
    }

    /// A tree never changes: of the same one, by the same names, the same is seen.
    fn hash(&self, context: &Context, build: Build) -> Result<[u8; 32], Unseen> {
        let known = lock(&self.0.hashes).iter().find(|(known, _)| *known == build).map(|(_, hash)| *hash);
        if let Some(hash) = known {
            return Ok(hash);
        }
        let hash = context.hash()?;
        let mut hashes = lock(&self.0.hashes);
        hashes.push_back((build, hash));
        if hashes.len() > HASHES {
            hashes.pop_front();
        }
        Ok(hash)
    }

    /// What the names that it builds upon stand for now. None where one is not here, and is not to be fetched either.
    async fn bases(
        &self,
        client: &Client,
        seen: &Seen,
        fetch: Option<&watch::Sender<Option<News>>>,
    ) -> Result<Option<BaseIds>, Fault> {
        let docker = &self.0.docker;
        let names = match &seen.dockerfile.bases {
            Bases::Named(names) => names,
            // Nothing like it was ever built, as far as can be told. Docker knows which parts of it were.
            Bases::Unclear => {
                return Ok(Some(vec![("unclear".to_owned(), crate::auth::random_hex(16))]));
            }
        };
        let mut found = BaseIds::new();
        for name in names {
            let mut id = images::local(docker, client, name).await?;
            if let (None, Some(news)) = (&id, fetch) {
                images::pull(docker, client, name, news).await?;
                id = images::local(docker, client, name).await?;
            }
            match (id, fetch) {
                (Some(id), _) if docker.has_older_files(client, &id).await? => {
                    return Err(Fault::new(
                        Reason::SpecRefused,
                        format!(
                            "the image {name:?}, which the Dockerfile builds upon, was built with rebuild_on: files that it has may be older than this run"
                        ),
                        "build that image without rebuild_on, or build upon another one",
                    ));
                }
                (Some(id), _) => found.push((name.clone(), id)),
                (None, Some(_)) => {
                    return Err(Fault::no_such_image("docker", name, ", though it was pulled"));
                }
                (None, None) => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// An image that was made of just this, if Docker still has it.
    async fn find(&self, client: &Client, key: &str, seen: &Seen) -> Result<Option<String>, Fault> {
        for image in self.0.kept.images_of(key) {
            if let Some(now) = &seen.baked {
                let (files, of) = (now.files.clone(), image.clone());
                let fits = move |kept: &Kept| {
                    let files = Manifest::parse(&files).map_err(io::Error::other)?;
                    kept.baked(&of).map_or(Ok(false), |baked| Ok(baked.gone_from(&files)?.is_none()))
                };
                if !self.on_disk(fits).await? {
                    continue;
                }
            }
            if images::local(&self.0.docker, client, &image).await?.is_some() {
                self.0.kept.used(&image);
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// How the source of a step is to lie over its image: None where as it is, else by this manifest. A fault where the
    /// step would judge files of another source.
    pub(crate) async fn over(&self, image: &str, tree: Option<&Tree>) -> Result<Option<Arc<Vec<u8>>>, Fault> {
        let client = self.0.docker.client().await?;
        if !self.0.docker.has_older_files(&client, image).await? {
            return Ok(None);
        }
        let refused = |error: &str, hint: &str| {
            let error = format!("the image of this step was built with rebuild_on, so that {error}");
            Err(Fault::new(Reason::SpecRefused, error, hint))
        };
        let Some(tree) = tree else {
            return refused(
                "files that it has may be older than this run",
                "have the files as they are lie over them: run(..., source_at=\"/app\"), with the folder into which the Dockerfile copies them; or build it without rebuild_on",
            );
        };
        let files = tree.files();
        let is_it = |known: &&Known| known.image == image && known.files == files;
        let known = lock(&self.0.overs).iter().find(is_it).map(|known| known.over.clone());
        if let Some(over) = known {
            return Ok(over);
        }
        let (of, manifest) = (image.to_owned(), tree.manifest());
        let look = move |kept: &Kept| kept.baked(&of).map(|baked| baked.over(&manifest?)).transpose();
        let over = match self.on_disk(look).await? {
            Some(Over::AsItIs) => None,
            Some(Over::Newer(manifest)) => Some(Arc::new(manifest)),
            Some(Over::Gone(path)) => {
                return refused(
                    &format!("it still has {path:?}, which is not in the source of this run"),
                    "have this run build it: build(...) in a stage before this one",
                );
            }
            None => {
                return refused(
                    "only who has built it knows which files it has",
                    "have this run build it: build(...) in a stage before this one",
                );
            }
        };
        let mut overs = lock(&self.0.overs);
        overs.push_back(Known { image: image.to_owned(), files, over: over.clone() });
        if overs.len() > HASHES {
            overs.pop_front();
        }
        Ok(over)
    }

    /// Whose the name is; a fault where it is somebody's whom it may not be taken from.
    async fn owner_of(&self, client: &Client, name: &str, image: Option<&str>) -> Result<Owner, Fault> {
        let docker = &self.0.docker;
        let found = match docker.call(docker.deadlines().look, client.inspect_image(name)).await {
            Ok(found) => found,
            Err(Trouble::NotFound(_)) => return Ok(Owner::Nobody),
            Err(Trouble::Refused { status: 400, message }) => {
                let error = format!("docker takes no image by the name {name:?}: {message}");
                return Err(Fault::new(
                    Reason::SpecRefused,
                    error,
                    "names of images have no capital letters",
                ));
            }
            Err(trouble) => return Err(docker.fault(trouble)),
        };
        let id = found.id.unwrap_or_default();
        if image == Some(id.as_str()) {
            return Ok(Owner::Itself);
        }
        let label = found.config.and_then(|config| config.labels?.remove(LABEL));
        if let Some(label) = label
            && self.is_builders(client, &id, &label).await?
        {
            return Ok(Owner::Builders);
        }
        Err(Fault::new(
            Reason::SpecRefused,
            format!("the name {name:?} is that of an image that no build(...) made: {id}"),
            format!("give build(...) another name, or take it away from that image: docker image rm {name}"),
        ))
    }

    /// Of an image of this data directory, or of one that was built upon such.
    fn is_ours(&self, label: &str) -> bool {
        label.strip_prefix(&self.0.owner).is_some_and(|key| key.starts_with('.'))
    }

    /// Not only built upon an image of a builder: then the label was put on earlier than last.
    async fn is_builders(&self, client: &Client, id: &str, label: &str) -> Result<bool, Fault> {
        let docker = &self.0.docker;
        let told = docker.call(docker.deadlines().look, client.image_history(id)).await;
        let history = told.map_err(|trouble| docker.fault(trouble))?;
        let last = history.first().map(|last| last.created_by.as_str()).unwrap_or_default();
        Ok(last.contains(&format!("LABEL {LABEL}={label}")))
    }

    /// Gives the image its name, where that is not somebody else's.
    async fn name(&self, client: &Client, name: &str, image: &str) -> Result<(), Fault> {
        match self.owner_of(client, name, Some(image)).await? {
            Owner::Itself => return Ok(()),
            Owner::Nobody | Owner::Builders => {}
        }
        let after_slash = name.rfind('/').map_or(0, |at| at + 1);
        let (repo, tag) = match name[after_slash..].split_once(':') {
            Some((last, tag)) => (format!("{}{last}", &name[..after_slash]), tag),
            None => (name.to_owned(), "latest"),
        };
        let options = TagImageOptions { repo: Some(repo), tag: Some(tag.to_owned()) };
        let docker = &self.0.docker;
        let named = docker.call(docker.deadlines().change, client.tag_image(image, Some(options))).await;
        named.map_err(|trouble| docker.fault(trouble))?;
        self.0.kept.named(image, name);
        Ok(())
    }

    /// Follows the work on this key, which is begun where nobody is at it.
    fn join(&self, key: &str, begin: impl FnOnce() -> Making) -> Follower {
        let mut works = lock(&self.0.works);
        if let Some(follower) = works.get(key).and_then(Work::follow) {
            return follower;
        }
        let work = Work::new();
        let follower = work.follow().expect("it is new");
        works.insert(key.to_owned(), work.clone());
        let (builds, key, making) = (self.clone(), key.to_owned(), begin());
        tokio::spawn(async move {
            let end = making.make(&work).await;
            let mut works = lock(&builds.0.works);
            if works.get(&key).is_some_and(|known| Arc::ptr_eq(known, &work)) {
                works.remove(&key);
            }
            drop(works);
            work.end(end);
        });
        follower
    }

    fn follow(&self, order: &Order, key: &str, follower: Follower) -> Running {
        let (tell, happenings) = mpsc::channel(AHEAD);
        let following = Following { stop: CancellationToken::new(), through: CancellationToken::new() };
        lock(&self.0.following).insert(order.step.clone(), following.clone());
        let (builds, step, image) = (self.clone(), order.step.clone(), order.image.clone());
        tokio::spawn(async move {
            let last = tokio::select! {
                biased;
                () = following.stop.cancelled() => None,
                () = tell.closed() => None,
                last = builds.pass_on(&follower, &tell, &image) => last,
            };
            follower.leave().await;
            lock(&builds.0.following).remove(&step);
            following.through.cancel();
            let gone = || {
                let fault = Fault::new(Reason::ContainerLost, "the build was given up", "run it again");
                Happening::Lost { fault, exit_code: None }
            };
            // Unheard, where the step is not watched any more.
            drop(tell.send(last.unwrap_or_else(gone)).await);
        });
        running(key, happenings)
    }

    /// Answers with the last that there is to tell; None where nobody hears it.
    async fn pass_on(
        &self,
        follower: &Follower,
        tell: &mpsc::Sender<Happening>,
        name: &str,
    ) -> Option<Happening> {
        loop {
            let happening = match follower.next().await {
                Next::Printed(bytes) => Happening::Output(Stream::Stdout, bytes),
                Next::Gap => Happening::Gap,
                Next::Ended(End::Failed { code, at }) => return Some(Happening::NotMade { code, at }),
                Next::Ended(End::Broken(fault)) => return Some(Happening::Lost { fault, exit_code: None }),
                Next::Ended(End::GivenUp) => return None,
                Next::Ended(End::Made(image)) => {
                    let named = match self.0.docker.client().await {
                        Ok(client) => self.name(&client, name, &image).await,
                        Err(fault) => Err(fault),
                    };
                    return Some(match named {
                        Ok(()) => Happening::Made(image),
                        Err(fault) => Happening::Lost { fault, exit_code: None },
                    });
                }
            };
            tell.send(happening).await.ok()?;
        }
    }
}

/// Of everything that the build sees.
fn key(seen: &Seen, bases: &BaseIds) -> String {
    let mut hash = Sha256::new();
    hash.update("bettertest build 1\n");
    for (name, id) in bases {
        hash.update(format!("{name} {id}\n"));
    }
    hash.update(format!("\n{}\n", seen.context.dockerfile.len()));
    hash.update(&seen.context.dockerfile);
    hash.update(seen.hash);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn running(key: &str, happenings: mpsc::Receiver<Happening>) -> Running {
    let container = format!("build-{}", key.get(..12).unwrap_or(key));
    Running { container, image_digest: None, age: Duration::ZERO, has_ended: false, happenings }
}

/// One of which all is known.
fn over(key: &str, words: String, last: Happening) -> Running {
    let (tell, happenings) = mpsc::channel(AHEAD);
    for happening in [Happening::Output(Stream::Stdout, words.into()), last] {
        // There is room: it is new.
        drop(tell.try_send(happening));
    }
    running(key, happenings)
}

fn unchanged(key: &str, name: &str, image: String) -> Running {
    over(key, format!("unchanged: {name} is {image}\n"), Happening::Made(image))
}

fn not_begun(wrong: &str) -> Running {
    over("not-begun", format!("{wrong}\n"), Happening::NotMade { code: 1, at: Some(wrong.to_owned()) })
}

/// Held for a few instructions only, never over an await.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Docker {
    /// May files that this image has be older than the source of a run?
    async fn has_older_files(&self, client: &Client, image: &str) -> Result<bool, Fault> {
        let known = lock(&self.0.older).get(image).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        match images::local(self, client, image).await? {
            Some(id) => Ok(lock(&self.0.older).get(&id).copied().unwrap_or(true)),
            None => Err(Fault::no_such_image("docker", image, " any more")),
        }
    }

    /// An image never changes; of which one it is told, every name that leads to it.
    pub(super) fn note_label(&self, image: &ImageInspect) {
        let labels = image.config.as_ref().and_then(|config| config.labels.as_ref());
        let is_older =
            labels.and_then(|labels| labels.get(LABEL)).is_some_and(|label| label.ends_with(OLDER));
        if let Some(id) = &image.id {
            lock(&self.0.older).insert(id.clone(), is_older);
        }
    }
}
