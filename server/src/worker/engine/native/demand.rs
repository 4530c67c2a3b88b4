//! How many to keep ready of something that is taken one at a time: more where none was left, one less where there
//! always were plenty.

const FEWEST: usize = 2;
const MOST: usize = 8;
/// After so many takes in a row that found plenty, one less is kept ready.
const CALM: usize = 32;

pub(super) struct Demand {
    wanted: usize,
    plenty: usize,
}

impl Demand {
    pub(super) fn new() -> Demand {
        Demand { wanted: FEWEST, plenty: 0 }
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// One is taken, if there was one.
    pub(super) fn take(&mut self, found: usize) {
        if found == 0 {
            self.wanted = (2 * self.wanted).min(MOST);
        }
        self.plenty = if 2 * found > self.wanted { self.plenty + 1 } else { 0 };
        if self.plenty == CALM {
            (self.wanted, self.plenty) = ((self.wanted - 1).max(FEWEST), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CALM, Demand, FEWEST, MOST};

    #[test]
    fn it_follows_what_is_taken_within_bounds() {
        let mut demand = Demand::new();
        (0..10).for_each(|_| demand.take(0));
        assert_eq!(demand.wanted(), MOST);
        (0..CALM).for_each(|_| demand.take(MOST));
        assert_eq!(demand.wanted(), MOST - 1);
        (0..CALM * MOST).for_each(|_| demand.take(MOST));
        assert_eq!(demand.wanted(), FEWEST);
    }
}
