//! Who gets the next slot.

use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::worker::queue::{FairQueue, Slots};

#[test]
fn runs_take_turns() {
    let mut queue = FairQueue::new();
    for step in 0..1000 {
        queue.push("big", ("big", step));
    }
    queue.push("small", ("small", 0));
    queue.push("small", ("small", 1));
    queue.push("late", ("late", 0));
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).take(7).collect();
    let expected = [("big", 0), ("small", 0), ("late", 0), ("big", 1), ("small", 1), ("big", 2), ("big", 3)];
    assert_eq!(order, expected);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_each_run_keeps_its_order(pushes in prop::collection::vec(0usize..5, 0..100)) {
        let mut queue = FairQueue::new();
        for (at, run) in pushes.iter().enumerate() {
            queue.push(&run.to_string(), (*run, at));
        }
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        prop_assert_eq!(popped.len(), pushes.len());
        for run in 0..5 {
            let of_run: Vec<_> = popped.iter().filter(|(of, _)| *of == run).map(|(_, at)| *at).collect();
            prop_assert!(of_run.is_sorted());
        }
    }
}

#[tokio::test]
async fn slots_are_never_more_than_there_are() {
    let slots = Slots::new(3);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut all = tokio::task::JoinSet::new();
    for step in 0..500 {
        let (slots, now, most) = (slots.clone(), now.clone(), most.clone());
        all.spawn(async move {
            let run = format!("run{}", step % 7);
            let slot = slots.take(&run);
            // Some give up waiting; what they are granted at that moment must not be lost.
            let Ok(_slot) = tokio::time::timeout(std::time::Duration::from_millis(step % 11), slot).await
            else {
                return;
            };
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
        });
    }
    while all.join_next().await.is_some() {}
    assert!(most.load(Ordering::SeqCst) <= 3);
    let again = [slots.take("a").await, slots.take("b").await, slots.take("c").await];
    drop(again);
    // More run than there are slots, after a restart: nobody else gets one until they are few enough.
    let running: Vec<_> = (0..5).map(|_| slots.take_at_once()).collect();
    let mut waiting = Box::pin(slots.take("d"));
    let patience = std::time::Duration::from_millis(20);
    let mut running = running.into_iter();
    drop((running.next(), running.next()));
    assert!(tokio::time::timeout(patience, &mut waiting).await.is_err());
    drop(running.next());
    drop(waiting.await);
}
