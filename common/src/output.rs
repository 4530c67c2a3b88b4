//! What a step prints: bytes of a stream, and the marks that say where in a stored output what came from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::StepId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// What the pipedef's own Python printed; never comes from a worker.
    Pipedef,
}

/// Exact bytes in JSON: `{"text": ...}` where they are UTF-8, `{"base64": ...}` where they are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    Text(String),
    #[serde(with = "as_base64")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    Base64(Vec<u8>),
}

impl Bytes {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Base64(bytes) => bytes,
        }
    }

    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        match String::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text),
            Err(error) => Bytes::Base64(error.into_bytes()),
        }
    }
}

mod as_base64 {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// One line of an output's index: what the bytes from `offset` on are, until the next mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputMark {
    /// Byte position in the attempt's stored output.
    pub offset: u64,
    /// Wall-clock milliseconds since 1970 when the boss received it; for show only.
    pub at_ms: u64,
    #[serde(flatten)]
    pub mark: Mark,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum Mark {
    /// Bytes of one stream of one step follow. They are what that step's spool at the worker holds from
    /// `position` on, less the first `skip_bytes` of output there, which stand before this mark.
    Output {
        step: StepId,
        stream: Stream,
        position: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        skip_bytes: u64,
    },
    /// Bytes that the pipedef's Python printed follow.
    Pipedef,
    /// The pipedef's Python printed `bytes` more than are kept.
    PipedefDropped { bytes: u64 },
    /// `bytes` of this step's output were left out here, because it was longer than its cap.
    Dropped { step: StepId, bytes: u64, position: u64 },
    /// Output of this step was lost here; null where nobody can know how much.
    Gap { step: StepId, bytes: Option<u64>, position: u64 },
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
