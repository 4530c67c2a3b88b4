//! What somebody looks for in an output: which lines have it, and which of these is in front. Letters of ASCII match
//! in either case, all else exactly.

use std::ops::Range;

use crate::log::Log;

#[derive(Debug, Clone, Default)]
pub(crate) struct Find {
    pub wanted: String,
    /// The numbers of the lines that have it, rising.
    hits: Vec<usize>,
    /// Up to this line it has been looked.
    looked_to: usize,
    /// Which of the hits is in front.
    at: Option<usize>,
}

impl Find {
    pub(crate) fn new(wanted: String) -> Find {
        Find { wanted, ..Find::default() }
    }

    /// Looks at the lines that have come since, up to one that will not change any more.
    pub(crate) fn look(&mut self, log: &Log, to: usize) {
        if self.wanted.is_empty() {
            return;
        }
        for number in self.looked_to + 1..=to {
            if log.text_of(number).is_some_and(|text| find_from(text, &self.wanted, 0).is_some()) {
                self.hits.push(number);
            }
        }
        self.looked_to = self.looked_to.max(to);
    }

    /// So many hits on or back, past the end from the beginning. Without one in front, to the first after line `from`.
    pub(crate) fn step(&mut self, by: isize, from: usize) -> Option<usize> {
        let count = self.hits.len();
        if count == 0 {
            return None;
        }
        let next = match self.at {
            Some(at) => (at as isize + by).rem_euclid(count as isize) as usize,
            None => match self.hits.partition_point(|hit| *hit < from) {
                after if after == count => 0,
                after => after,
            },
        };
        self.at = Some(next);
        self.line()
    }

    /// The line that is in front.
    pub(crate) fn line(&self) -> Option<usize> {
        self.hits.get(self.at?).copied()
    }

    /// Which hit is in front, counted from 1, and how many there are.
    pub(crate) fn place(&self) -> (Option<usize>, usize) {
        (self.at.map(|at| at + 1), self.hits.len())
    }

    /// Where in a text it is.
    pub(crate) fn places_in(&self, text: &str) -> Vec<Range<usize>> {
        let mut places = Vec::new();
        let mut from = 0;
        while let Some(begin) = find_from(text, &self.wanted, from) {
            from = begin + self.wanted.len();
            places.push(begin..from);
        }
        places
    }
}

fn find_from(text: &str, wanted: &str, from: usize) -> Option<usize> {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    let first = wanted.first()?;
    let last = text.len().checked_sub(wanted.len())?;
    (from..=last).find(|i| {
        text[*i].eq_ignore_ascii_case(first) && text[*i..*i + wanted.len()].eq_ignore_ascii_case(wanted)
    })
}
