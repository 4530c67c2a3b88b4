//! What an image has of a source, where `rebuild_on` lets it be of an earlier one: which files its build saw.
//!
//! The source of a step lies over it, so that a file which has changed is read as it is. But one that has gone would still
//! be there; and what was compiled of a file would be taken for that of another, where cargo or make find that the other
//! looks older. So an image is no step's before it was held against the source: nothing may have gone, and a
//! file that it has not so is made newer than it.

use common::{Entry, EntryMode, Manifest};
use std::io;

use super::ignore::Ignore;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Baked {
    /// As a context has them: which files its build would see, also of those that came later.
    pub(super) within: Vec<u8>,
    pub(super) ignore: Vec<u8>,
    /// A manifest, with paths from the root of the source.
    pub(super) files: Vec<u8>,
    /// By Docker's clock, in nanoseconds since 1970. Nothing in it was made later.
    pub(super) made_ns: i64,
}

/// How a source comes to lie over an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    AsItIs,
    /// By this manifest, with times that are not all its own.
    Newer(Vec<u8>),
    /// Not at all: the image has this file, and the source does not.
    Gone(String),
}

const SECOND_NS: i64 = 1_000_000_000;

impl Baked {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Baked { within, ignore, files, made_ns } = self;
        let lengths = format!("{made_ns} {} {} {}\n", within.len(), ignore.len(), files.len());
        [lengths.as_bytes(), within, ignore, files].concat()
    }

    /// None where it is not whole.
    pub(super) fn read(bytes: &[u8]) -> Option<Baked> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let mut numbers = std::str::from_utf8(&bytes[..end]).ok()?.split(' ');
        let made_ns = numbers.next()?.parse().ok()?;
        let mut rest = &bytes[end + 1..];
        let mut part = || {
            let (part, left) = rest.split_at_checked(numbers.next()?.parse().ok()?)?;
            rest = left;
            Some(part.to_vec())
        };
        let baked = Baked { within: part()?, ignore: part()?, files: part()?, made_ns };
        (rest.is_empty() && Manifest::parse(&baked.files).is_ok()).then_some(baked)
    }

    /// Docker made the very same image of both, so that it has nothing in which they differ.
    pub(super) fn or(&self, other: &Baked) -> io::Result<Baked> {
        let (ours, theirs) = (parse(&self.files)?, parse(&other.files)?);
        let mut theirs = theirs.entries().peekable();
        let both = ours.entries().filter(|ours| {
            while theirs.next_if(|theirs| theirs.path < ours.path).is_some() {}
            theirs.peek().is_some_and(|theirs| theirs.path == ours.path && is_alike(theirs, ours))
        });
        let files = Manifest::format(both.collect());
        Ok(Baked { files, made_ns: self.made_ns.max(other.made_ns), ..self.clone() })
    }

    /// The first file that it has, and that is not there any more.
    pub(super) fn gone_from(&self, there: &Manifest<'_>) -> io::Result<Option<String>> {
        let baked = parse(&self.files)?;
        let mut there = there.entries().peekable();
        let gone = baked.entries().find(|baked| {
            while there.next_if(|there| there.path < baked.path).is_some() {}
            let now = there.peek().filter(|there| there.path == baked.path);
            // A link that leads elsewhere is no edited file: what it leads to is as old as it was.
            let is_link = |entry: &Entry<'_>| entry.mode == EntryMode::Link;
            now.is_none_or(|now| (is_link(now) || is_link(baked)) && !is_alike(now, baked))
        });
        Ok(gone.map(|gone| String::from_utf8_lossy(gone.path).into_owned()))
    }

    pub(super) fn over(&self, source: &[u8]) -> io::Result<Over> {
        let source = parse(source)?;
        if let Some(gone) = self.gone_from(&source)? {
            return Ok(Over::Gone(gone));
        }
        let baked = parse(&self.files)?;
        let mut baked = baked.entries().peekable();
        let mut ignore = Ignore::read(&self.ignore).map_err(io::Error::other)?;
        let mut is_as_it_is = true;
        let entries = source.entries().map(|mut entry| {
            let in_image = baked.next_if(|baked| baked.path == entry.path);
            let is_older = entry.mode != EntryMode::Link && entry.mtime_ns <= self.made_ns;
            let mut is_other = || match in_image {
                Some(in_image) => !is_alike(&in_image, &entry),
                // What no build sees is as new to an image of today.
                None => entry.path.strip_prefix(&self.within[..]).is_some_and(|path| !ignore.matches(path)),
            };
            if is_older && is_other() {
                // Whole seconds later, as that is all that some tools tell apart.
                entry.mtime_ns = self.made_ns / SECOND_NS * SECOND_NS + 2 * SECOND_NS;
                is_as_it_is = false;
            }
            entry
        });
        let entries: Vec<Entry<'_>> = entries.collect();
        Ok(if is_as_it_is { Over::AsItIs } else { Over::Newer(Manifest::format(entries)) })
    }
}

fn is_alike(one: &Entry<'_>, other: &Entry<'_>) -> bool {
    (one.mode, one.blob) == (other.mode, other.blob)
}

fn parse(manifest: &[u8]) -> io::Result<Manifest<'_>> {
    Manifest::parse(manifest).map_err(io::Error::other)
}
