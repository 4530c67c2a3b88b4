//! Fake images: what the `RUN` lines of a Dockerfile say is played as a command is, and its bytes are the image.

use bytes::Bytes;
use common::{Command, StepId, Stream};
use std::fs;
use tokio::sync::mpsc;

use super::super::{AHEAD, Fault, Happening, Running, Signal};
use super::{Fake, digest, lock, script};
use crate::worker::builder::Order;

impl Fake {
    /// Unchanged is what was built by the same name of the same bytes.
    pub(crate) fn look(&self, order: &Order) -> Option<Running> {
        let image = image(order)?;
        if lock(&self.0.named).get(&order.image) != Some(&image) {
            return None;
        }
        let (tell, happenings) = mpsc::channel(AHEAD);
        let words = Bytes::from(format!("unchanged: {} is {image}\n", order.image));
        for happening in [Happening::Output(Stream::Stdout, words), Happening::Made(image)] {
            // There is room: it is new.
            drop(tell.try_send(happening));
        }
        let container = format!("fake-{}", order.step);
        Some(Running {
            container,
            image_digest: None,
            age: std::time::Duration::ZERO,
            has_ended: false,
            happenings,
        })
    }

    pub(crate) fn build(&self, order: &Order) -> Result<Running, Fault> {
        self.check()?;
        // One that an earlier worker began is begun again.
        self.remove(&order.step)?;
        let command = Command::Build { build: Box::new(order.build.clone()) };
        let acts = script::acts(&command, &|path| read(order, path));
        let mut running = self.begin(&order.step, None, "/", acts);
        let (tell, happenings) = mpsc::channel(AHEAD);
        let mut played = std::mem::replace(&mut running.happenings, happenings);
        let (fake, order) = (self.clone(), order.clone());
        tokio::spawn(async move {
            while let Some(happening) = played.recv().await {
                let told = match (happening, image(&order)) {
                    (Happening::Exited(exit), Some(image)) if exit.code == 0 => {
                        lock(&fake.0.named).insert(order.image.clone(), image.clone());
                        lock(&fake.0.built).insert(image.clone());
                        Happening::Made(image)
                    }
                    (Happening::Exited(exit), _) => {
                        Happening::NotMade { code: exit.code.max(1), at: first_command(&order) }
                    }
                    (other, _) => other,
                };
                if tell.send(told).await.is_err() {
                    // Nobody listens any more, and nobody will.
                    fake.stop_build(&order.step);
                    return;
                }
            }
        });
        Ok(running)
    }

    pub(crate) fn stop_build(&self, step: &StepId) {
        // An engine that is away is asked again.
        drop(self.signal(step, Signal::Term));
    }
}

/// None where there is no such Dockerfile.
fn image(order: &Order) -> Option<String> {
    Some(digest(&[order.image.as_bytes(), &[0], &read(order, &order.build.dockerfile)?]))
}

/// Where one that fails is said to have failed.
fn first_command(order: &Order) -> Option<String> {
    let dockerfile = &order.build.dockerfile;
    let bytes = read(order, dockerfile)?;
    let text = String::from_utf8_lossy(&bytes);
    let (line, command) = (1..).zip(text.lines()).find(|(_, line)| line.starts_with("RUN "))?;
    Some(format!("{dockerfile}:{line}: {command}"))
}

fn read(order: &Order, path: &str) -> Option<Bytes> {
    let root = order.tree.files();
    let place = root.join(path).canonicalize().ok()?;
    place.starts_with(root.canonicalize().ok()?).then(|| fs::read(place).ok().map(Bytes::from))?
}
