//! From what becomes of each system call to a program that the kernel runs before it.
//!
//! The kernel tries a new program with every number that there is, so that a long chain of comparisons costs a
//! millisecond in each sandbox. Here the numbers are searched by halves, which costs a twentieth.

use libc::sock_filter;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// With this error.
    Refused(libc::c_int),
    /// Where the first argument is in one of these ranges, which are in order. Else EPERM.
    AllowedFor(&'static [(u32, u32)]),
    /// Where the first argument has none of these bits. Else EPERM.
    AllowedWithout(u32),
}

use Verdict::{Allowed, AllowedFor, AllowedWithout, Refused};

/// Where the kernel puts what a program looks at.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_LOW: u32 = 16;
const ARGUMENT_HIGH: u32 = 20;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// For each architecture, by the kernel's name for it, what becomes of which call. All of others is refused.
pub(super) fn program(architectures: &[(u32, BTreeMap<u32, Verdict>)]) -> Vec<sock_filter> {
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    for (id, verdicts) in architectures {
        let mut calls = vec![plain(LOAD, NUMBER)];
        calls.extend(search(&by_number(verdicts)));
        program.push(jump(IF_EQUAL, *id, 0, 1));
        // A condition reaches only 255 instructions far.
        program.push(plain(JUMP, 1));
        program.push(plain(JUMP, length(&calls)));
        program.extend(calls);
    }
    program.extend(end(Refused(libc::EPERM)));
    program
}

/// The first number of each range of numbers that have the same verdict.
fn by_number(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for (number, verdict) in verdicts {
        if *number > next {
            ranges.push((next, Refused(libc::EPERM)));
        }
        ranges.push((*number, *verdict));
        next = number + 1;
    }
    // Newer calls, and those of x32. A library that is told of no such call does without it, as on older kernels.
    ranges.push((next, Refused(libc::ENOSYS)));
    ranges.dedup_by_key(|(_, verdict)| *verdict);
    ranges
}

/// Finds what was loaded in one of the ranges, and does what becomes of it.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return end(*verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let low = search(low);
    let mut found = match u8::try_from(low.len()) {
        Ok(over) => vec![jump(IF_AT_LEAST, high[0].0, over, 0)],
        Err(_) => vec![jump(IF_AT_LEAST, high[0].0, 0, 1), plain(JUMP, length(&low))],
    };
    found.extend(low);
    found.extend(search(high));
    found
}

fn end(verdict: Verdict) -> Vec<sock_filter> {
    let refused = plain(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let allowed = plain(RETURN, libc::SECCOMP_RET_ALLOW);
    match verdict {
        Allowed => vec![allowed],
        Refused(error) => vec![plain(RETURN, libc::SECCOMP_RET_ERRNO | error as u32)],
        AllowedWithout(bits) => {
            vec![plain(LOAD, ARGUMENT_LOW), jump(IF_ANY_BIT, bits, 0, 1), refused, allowed]
        }
        AllowedFor(values) => {
            let mut ranges = vec![(0, Refused(libc::EPERM))];
            for (first, last) in values {
                ranges.retain(|(start, _)| start != first);
                ranges.push((*first, Allowed));
                ranges.extend(last.checked_add(1).map(|next| (next, Refused(libc::EPERM))));
            }
            let mut end =
                vec![plain(LOAD, ARGUMENT_HIGH), jump(IF_EQUAL, 0, 1, 0), refused, plain(LOAD, ARGUMENT_LOW)];
            end.extend(search(&ranges));
            end
        }
    }
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn plain(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

/// The kernel takes 4096 instructions at most.
fn length(code: &[sock_filter]) -> u32 {
    code.len() as u32
}
