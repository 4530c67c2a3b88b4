//! From the name of an image to the image: looked for here, else pulled, once for all who wait for it.

use bollard::Docker as Client;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use common::{Reason, StepSpec};
use futures_util::StreamExt as _;
use std::collections::HashMap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::together::Teller;
use super::super::{Fault, News};
use super::Docker;
use super::client::{Trouble, trouble_of};
use crate::limits;

pub(super) async fn resolve(
    docker: &Docker,
    spec: &StepSpec,
    news: &watch::Sender<Option<News>>,
) -> Result<String, Fault> {
    let client = docker.client().await?;
    // A pinned image is taken by its id, whatever its name stands for by now.
    let wanted = spec.image_digest.as_deref().unwrap_or(&spec.image);
    if let Some(id) = local(docker, &client, wanted).await? {
        return Ok(id);
    }
    let changed = || {
        Fault::new(
            Reason::ImageChanged,
            format!("image \"{}\" is no longer {wanted}, with which this run began", spec.image),
            "start a new run, or bring that image back",
        )
    };
    if spec.image_digest.is_some() && local(docker, &client, &spec.image).await?.is_some() {
        return Err(changed());
    }
    if spec.image.starts_with("sha256:") {
        return Err(Fault::no_such_image("docker", &spec.image, ""));
    }
    pull(docker, &client, &spec.image, news).await?;
    match local(docker, &client, wanted).await? {
        Some(id) => Ok(id),
        None if spec.image_digest.is_some() => Err(changed()),
        None => Err(Fault::no_such_image("docker", &spec.image, ", though it was pulled")),
    }
}

pub(super) async fn local(docker: &Docker, client: &Client, image: &str) -> Result<Option<String>, Fault> {
    match docker.call(docker.deadlines().look, client.inspect_image(image)).await {
        Ok(found) => {
            docker.note_label(&found);
            Ok(found.id)
        }
        Err(Trouble::NotFound(_)) => Ok(None),
        // Such as a name with capital letters.
        Err(Trouble::Refused { status: 400, message }) => {
            Err(Fault::no_such_image("docker", image, &format!(": {message}")))
        }
        Err(trouble) => Err(docker.fault(trouble)),
    }
}

pub(super) async fn pull(
    docker: &Docker,
    client: &Client,
    image: &str,
    news: &watch::Sender<Option<News>>,
) -> Result<(), Fault> {
    let (own, client, name) = (docker.clone(), client.clone(), image.to_owned());
    let begin = |tell: Teller<()>| async move {
        tell.tell(news_of(&name, &HashMap::new()));
        pull_now(&own, &client, &name, &tell).await
    };
    docker.0.pulls.wait(image, news, begin).await
}

async fn pull_now(docker: &Docker, client: &Client, image: &str, tell: &Teller<()>) -> Result<(), Fault> {
    // Without a tag Docker would pull every tag there is.
    let last = image.rsplit('/').next().unwrap_or(image);
    let from_image = if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") };
    let options = CreateImageOptions { from_image: Some(from_image), ..Default::default() };
    let mut answers = client.create_image(Some(options), None, None);
    let mut layers = HashMap::new();
    let mut told = Instant::now();
    let all = async {
        while let Some(answer) = answers.next().await {
            note(&mut layers, answer?);
            if told.elapsed() >= limits::PULL_NEWS {
                told = Instant::now();
                tell.tell(news_of(image, &layers));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(docker.deadlines().pull, all).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(docker, image, trouble_of(error))),
        Err(_) => Err(Fault::new(
            Reason::PullTimeout,
            format!("pulling image \"{image}\" took longer than {} s", docker.deadlines().pull.as_secs()),
            format!("pull it on this worker beforehand: docker pull {image}"),
        )),
    }
}

/// The bytes of each layer: how many are here, of how many.
type Layers = HashMap<String, (u64, u64)>;

fn note(layers: &mut Layers, info: CreateImageInfo) {
    let detail = info.progress_detail.unwrap_or_default();
    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
    if let (Some(layer), Some(done), Some(total)) = (info.id, bytes(detail.current), bytes(detail.total))
        && info.status.as_deref() == Some("Downloading")
    {
        layers.insert(layer, (done, total));
    }
}

fn news_of(image: &str, layers: &Layers) -> News {
    let sum = |of: fn(&(u64, u64)) -> u64| (!layers.is_empty()).then(|| layers.values().map(of).sum());
    News {
        what: format!("pulling {image}"),
        done_bytes: sum(|layer| layer.0),
        total_bytes: sum(|layer| layer.1),
    }
}

/// Docker says in prose alone why it could not pull, and calls a missing image an access denied.
fn refused(docker: &Docker, image: &str, trouble: Trouble) -> Fault {
    let (Trouble::NotFound(message) | Trouble::Conflict(message) | Trouble::Refused { message, .. }) =
        trouble
    else {
        return docker.fault(trouble);
    };
    let says = |words: &[&str]| words.iter().any(|word| message.to_lowercase().contains(word));
    // `myproject-test` names no registry; `host:5000/x` and `example.org/x` do.
    let names_registry = image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
    let missing = ["not found", "manifest unknown", "no such image", "invalid reference", "does not exist"];
    let unreachable =
        ["dial tcp", "lookup ", "timeout", "no route", "refused", "certificate", "eof", "awaiting"];
    let denied = ["unauthorized", "authentication required", "denied", "no basic auth"];
    if says(&["toomanyrequests", "rate limit"]) {
        Fault::new(Reason::PullFailed, could_not(image, &message), "wait, or log docker in: docker login")
    } else if says(&denied) && (names_registry || !says(&missing)) {
        let hint = format!("log docker in on this worker, or: docker pull {image}");
        Fault::new(Reason::PullDenied, could_not(image, &message), hint)
    } else if says(&missing) {
        Fault::no_such_image("docker", image, &format!(", and no registry has it: {message}"))
    } else if says(&unreachable) && !names_registry {
        // It was never here, and where else it could be nobody can be asked.
        Fault::no_such_image("docker", image, &format!(", and the registry cannot be asked: {message}"))
    } else {
        let hint = format!("try it by hand on this worker: docker pull {image}");
        Fault::new(Reason::PullFailed, could_not(image, &message), hint)
    }
}

fn could_not(image: &str, message: &str) -> String {
    format!("docker could not pull image \"{image}\": {message}")
}
