//! A sandbox that is made only to see whether it can be: every wall, the network included, around a command that is
//! not there.

use common::{Command, Network, StepId, StepSpec};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::{Happening, Job};
use super::Native;
use super::images::Image;

/// No step has this name.
const FOLDER: &str = ".trial";
/// As shells say that a command is not there.
const NOT_FOUND: u8 = 127;
/// Then it goes by itself.
const DEADLINE: Duration = Duration::from_secs(60);

impl Native {
    /// Why it cannot be made. All that it was is gone when this returns, whatever came of it.
    pub(in crate::worker::engine) async fn trial(&self) -> Result<(), String> {
        let folder = self.0.folder.join(FOLDER);
        let step: StepId = crate::auth::random_hex(16).try_into().expect("hexadecimal digits name a step");
        let tried = match fs::create_dir_all(&folder).and_then(|()| Image::of_nothing(&folder)) {
            Ok(image) => self.try_with(Arc::new(image), &step).await,
            Err(error) => Err(format!("{}: {error}", folder.display())),
        };
        if let Err(fault) = self.remove(&step).await {
            tracing::warn!("what was made for trial is left for the next sweep: {fault}");
        }
        remove(&folder);
        tried
    }

    async fn try_with(&self, image: Arc<Image>, step: &StepId) -> Result<(), String> {
        let spec = StepSpec {
            user: Some("65534:65534".to_owned()),
            cpus: Some(1.0),
            ..StepSpec::new("", Command::Exec(vec!["/nothing".to_owned()]))
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let deadline_s = (now + DEADLINE).as_secs();
        let job = Job { step: step.clone(), spec, tree: None, image_digest: String::new(), deadline_s };
        let made = self.make(&image, Network::Egress, false).await.map_err(|fault| fault.message)?;
        let mut running = self.begin(made, &job).await.map_err(|not_begun| not_begun.fault.message)?;
        while let Some(happening) = running.happenings.recv().await {
            match happening {
                Happening::Output(..) | Happening::Gap => {}
                Happening::Exited(exit) if exit.code == NOT_FOUND => return Ok(()),
                Happening::Exited(exit) => return Err(format!("it ends with {}", exit.code)),
                Happening::Made(_) | Happening::NotMade { .. } => return Err("it made an image".to_owned()),
                Happening::Lost { fault, .. } => return Err(fault.message),
            }
        }
        Err("nothing is heard of it".to_owned())
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} is left: {error}", folder.display());
        }
        Ok(()) | Err(_) => {}
    }
}
