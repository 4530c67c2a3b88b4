//! How the results of an attempt's tests are written: two small numbers each, in seven bits a byte. What does not read
//! as such is damage.

use common::TestOutcome;

/// A test in an attempt, by the number of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) name: i64,
    pub(super) outcome: TestOutcome,
    pub(super) took_ms: Option<u64>,
}

/// Longer than any test takes; what is above is told as this.
const LONGEST_MS: u64 = 1 << 40;

pub(super) fn pack(results: &[Packed]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(results.len() * 4);
    let mut before = 0;
    for result in results {
        // Names are numbered as they come, so that most follow the one before.
        let step = result.name.wrapping_sub(before);
        before = result.name;
        put(&mut bytes, ((step << 1) ^ (step >> 63)).cast_unsigned());
        let took = result.took_ms.map_or(0, |took_ms| took_ms.min(LONGEST_MS) + 1);
        let outcome = match result.outcome {
            TestOutcome::Failed => 0,
            TestOutcome::Errored => 1,
            TestOutcome::Skipped => 2,
            TestOutcome::Passed => 3,
        };
        put(&mut bytes, took << 2 | outcome);
    }
    bytes
}

/// None where it is something else.
pub(super) fn unpack(mut bytes: &[u8]) -> Option<Vec<Packed>> {
    let mut results = Vec::new();
    let mut before = 0_i64;
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        let told = take(&mut bytes)?;
        let name = before.wrapping_add((step >> 1).cast_signed() ^ -(step & 1).cast_signed());
        before = name;
        let outcome = match told & 3 {
            0 => TestOutcome::Failed,
            1 => TestOutcome::Errored,
            2 => TestOutcome::Skipped,
            _ => TestOutcome::Passed,
        };
        results.push(Packed { name, outcome, took_ms: (told >> 2).checked_sub(1) });
    }
    Some(results)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let outcomes = [TestOutcome::Failed, TestOutcome::Errored, TestOutcome::Skipped, TestOutcome::Passed];
        let took = [None, Some(0), Some(7), Some(3_600_000), Some(LONGEST_MS)];
        let mut results = Vec::new();
        for name in [1, 2, 3, 2, 900, i64::MAX, i64::MIN, 0, -1] {
            for outcome in outcomes {
                results.extend(took.map(|took_ms| Packed { name, outcome, took_ms }));
            }
        }
        assert_eq!(unpack(&pack(&results)), Some(results));
        let usual = |name| Packed { name, outcome: TestOutcome::Passed, took_ms: Some(12) };
        let usual: Vec<_> = (1..=1000).map(usual).collect();
        assert!(pack(&usual).len() <= 2 * usual.len());
        assert_eq!(unpack(&[]), Some(Vec::new()));
        assert_eq!((unpack(&[1]), unpack(&[0x80; 30]), unpack(&[0xff; 9])), (None, None, None));
    }
}
