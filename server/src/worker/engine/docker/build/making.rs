//! One build in Docker, from the first byte of its context to an image that is seen to be what it should be.

use bollard::Docker as Client;
use bollard::query_parameters::{BuildImageOptions, WaitContainerOptions};
use bytes::Bytes;
use common::Reason;
use futures_util::StreamExt as _;
use std::collections::HashMap;
use std::time::SystemTime;

use super::super::super::Fault;
use super::super::client::{Trouble, trouble_of};
use super::super::{archive, clock};
use super::baked::Baked;
use super::dockerfile::{Bases, Instruction};
use super::follow::{End, Work};
use super::{BaseIds, Builds, LABEL, OLDER, Seen};
use crate::limits;

/// Folders of a context; what a Dockerfile copies gets it, so that it is the usual one.
const FOLDER_MODE: u32 = 0o755;

pub(super) struct Making {
    builds: Builds,
    client: Client,
    seen: Seen,
    bases: BaseIds,
    key: String,
}

/// Which of its steps Docker is at, as it says so itself. Containers print into the same stream, so that nothing but
/// words for people comes of it.
#[derive(Default)]
struct Progress {
    step: usize,
    container: Option<String>,
}

/// An image that is what was to be made.
struct Proven {
    image: String,
    /// What it adds to those that it builds upon.
    own_bytes: u64,
    /// By Docker's clock.
    made_ns: i64,
}

/// What Docker said last.
enum Told {
    Image(Option<String>),
    Trouble(Trouble),
    NobodyListens,
}

impl Making {
    pub(super) fn new(builds: Builds, client: Client, seen: Seen, bases: BaseIds, key: String) -> Making {
        Making { builds, client, seen, bases, key }
    }

    pub(super) async fn make(self, work: &Work) -> End {
        let Making { builds, client, seen, bases, key } = self;
        let Seen { context, dockerfile, baked, .. } = seen;
        let label = format!("{}.{key}{}", builds.0.owner, if baked.is_some() { OLDER } else { "" });
        let options = BuildImageOptions {
            dockerfile: context.dockerfile_name.clone(),
            rm: true,
            forcerm: true,
            labels: Some(HashMap::from([(LABEL.to_owned(), label.clone())])),
            ..Default::default()
        };
        let name = context.dockerfile_name.clone();
        let (body, written) = archive::stream(FOLDER_MODE, move |archive| context.write(archive));
        let mut progress = Progress::default();
        // Until the context is there Docker says nothing.
        let patient = client.clone().with_timeout(limits::DOCKER_COPY);
        let answers = patient.build_image(options, None, Some(bollard::body_stream(body)));
        // Closing the stream, at the end of this, is what ends a build.
        let told = listen(Box::pin(answers), work, &mut progress, dockerfile.instructions.len()).await;
        let written = written.await.unwrap_or_else(|error| Err(error.to_string()));
        let image = match told {
            Told::NobodyListens => {
                gone(&client, progress.container.as_deref()).await;
                return End::GivenUp;
            }
            Told::Trouble(trouble) => {
                let at = place(&name, &dockerfile.instructions, progress.step);
                let (words, end) = builds.failed(trouble, at);
                work.print(Bytes::from(words + "\n")).await;
                return end;
            }
            Told::Image(image) => image,
        };
        if let Err(error) = written {
            // A part of an archive may be an archive too.
            let message = format!("the source could not be sent to docker: {error}");
            return End::Broken(Fault::new(Reason::Internal, message, "run it again"));
        }
        let unclear = matches!(dockerfile.bases, Bases::Unclear);
        match builds.proven(&client, image, &label, if unclear { &[] } else { &bases }).await {
            Ok(Proven { image, own_bytes, made_ns }) => {
                let (baked, made) = (baked.map(|baked| Baked { made_ns, ..baked }), image.clone());
                let kept = builds.on_disk(move |kept| kept.keep(&key, &made, own_bytes, baked)).await;
                kept.map_or_else(End::Broken, |()| End::Made(image))
            }
            Err(fault) => End::Broken(fault),
        }
    }
}

async fn listen(
    mut answers: impl futures_util::Stream<Item = Result<bollard::models::BuildInfo, bollard::errors::Error>>
    + Unpin,
    work: &Work,
    progress: &mut Progress,
    instructions: usize,
) -> Told {
    let mut image = None;
    loop {
        let answer = tokio::select! {
            biased;
            () = work.given_up() => return Told::NobodyListens,
            answer = answers.next() => answer,
        };
        match answer {
            None => return Told::Image(image),
            Some(Err(error)) => return Told::Trouble(trouble_of(error)),
            Some(Ok(info)) => {
                // One for each stage; the last is that of the whole.
                image = info.aux.and_then(|aux| aux.id).or(image);
                if let Some(text) = info.stream {
                    progress.note(&text, instructions);
                    work.print(Bytes::from(text)).await;
                }
            }
        }
    }
}

impl Progress {
    fn note(&mut self, text: &str, instructions: usize) {
        if let Some(id) = text.strip_prefix(" ---> Running in ") {
            self.container =
                Some(id.trim().to_owned()).filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()));
        }
        // One step more than there are instructions, for the label.
        let counted = |text: &str| {
            let (step, rest) = text.strip_prefix("Step ")?.split_once('/')?;
            let (of, _) = rest.split_once(" : ")?;
            (of.parse() == Ok(instructions + 1)).then(|| step.parse().ok())?
        };
        if counted(text) == Some(self.step + 1) {
            self.step += 1;
        }
    }
}

/// The instruction that Docker was at.
fn place(dockerfile: &str, instructions: &[Instruction], step: usize) -> Option<String> {
    let Instruction { line, text } = instructions.get(step.checked_sub(1)?)?;
    let text: String = text.chars().take(200).collect();
    Some(format!("{dockerfile}:{line}: {text}"))
}

/// Waits until Docker has removed the container that it had when it was left. It only looks: the id was printed, and
/// who prints may lie.
async fn gone(client: &Client, container: Option<&str>) {
    let Some(container) = container else { return };
    let options = WaitContainerOptions { condition: "removed".to_owned() };
    let mut removed = Box::pin(client.wait_container(container, Some(options)));
    // It answers as soon as there is no such container, with an error where there was none to begin with.
    drop(tokio::time::timeout(limits::DOCKER_CHANGE, removed.next()).await);
}

impl Builds {
    /// Why there is no image: the Dockerfile's fault, or Docker's own. With what is printed of it.
    fn failed(&self, trouble: Trouble, at: Option<String>) -> (String, End) {
        let docker = &self.0.docker;
        match trouble {
            Trouble::Refused { message, .. } if message.contains("no space left on device") => {
                let hint = "make room on the disk of docker: docker system df";
                (message.clone(), End::Broken(Fault::new(Reason::DiskFull, message, hint)))
            }
            // In the stream, or before it where the Dockerfile cannot be read.
            Trouble::Refused { status: 0 | 400, message } => {
                let code = message.rsplit_once("returned a non-zero code: ");
                let code = code.and_then(|(_, code)| code.trim().parse().ok()).filter(|code| *code > 0);
                (message, End::Failed { code: code.unwrap_or(1), at })
            }
            Trouble::Away(_) => {
                let fault = docker.fault(trouble);
                (fault.message.clone(), End::Broken(fault))
            }
            Trouble::NotFound(message) | Trouble::Conflict(message) | Trouble::Refused { message, .. } => {
                let error = format!("docker at {} cannot build: {message}", docker.0.host);
                let hint = "its API has to have the classic builder, POST /build; its own log says more";
                (message, End::Broken(Fault::new(Reason::EngineUnavailable, error, hint)))
            }
        }
    }

    /// The image, where it is seen to be what was to be made.
    async fn proven(
        &self,
        client: &Client,
        image: Option<String>,
        label: &str,
        bases: &[(String, String)],
    ) -> Result<Proven, Fault> {
        let docker = &self.0.docker;
        let image = image.ok_or_else(|| {
            let error = "docker ended the build without saying which image it made";
            Fault::new(Reason::EngineUnavailable, error, "run it again; docker's own log says more")
        })?;
        let found = docker.call(docker.deadlines().look, client.inspect_image(&image)).await;
        let found = found.map_err(|trouble| docker.fault(trouble))?;
        let labels = found.config.and_then(|config| config.labels);
        // Docker puts it on last, and on nothing that it made on the way.
        if labels.and_then(|mut labels| labels.remove(LABEL)).as_deref() != Some(label) {
            let error = format!("docker says that it made {image}, which is not what it was to make");
            return Err(Fault::new(Reason::EngineUnavailable, error, "run it again"));
        }
        let mut below_bytes = 0;
        for (name, id) in bases {
            let now = match docker.call(docker.deadlines().look, client.inspect_image(name)).await {
                Ok(now) => Some(now),
                Err(Trouble::NotFound(_)) => None,
                Err(trouble) => return Err(docker.fault(trouble)),
            };
            below_bytes += now.as_ref().and_then(|now| now.size).unwrap_or(0);
            if now.and_then(|now| now.id).as_ref() != Some(id) {
                return Err(Fault::new(
                    Reason::ImageChanged,
                    format!("the image {name:?} became another one while it was built upon"),
                    "run it again",
                ));
            }
        }
        let own_bytes = found.size.unwrap_or(0).saturating_sub(below_bytes);
        let made_ns = found.created.as_deref().and_then(clock::parse).and_then(|made| {
            i64::try_from(made.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
        });
        let made_ns = made_ns.ok_or_else(|| {
            let error = format!("docker does not say when it made {image}");
            Fault::new(Reason::EngineUnavailable, error, "run it again; docker's own log says more")
        })?;
        Ok(Proven { image, own_bytes: u64::try_from(own_bytes).unwrap_or(0), made_ns })
    }
}
