use std::collections::{HashMap, HashSet};

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(Id, u64),
    Touch(Id),
    Remove(Id),
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u32, 0..1u64 << 30).prop_map(|(id, size)| Step::Insert(id, size)),
        (0..12u32).prop_map(Step::Touch),
        (0..12u32).prop_map(Step::Remove),
        Just(Step::Evict),
    ]
}

proptest! {
    /// Every policy knows exactly what was put in and not taken out, whatever the order of calls.
    #[test]
    fn no_policy_loses_or_invents_an_object(steps in prop::collection::vec(step(), 0..300)) {
        for kind in Kind::ALL {
            let mut policy = super::policy(kind);
            let mut known = HashSet::new();
            for step in &steps {
                match *step {
                    Step::Insert(id, size) => if known.insert(id) { policy.insert(id, u64::from(id), size) },
                    Step::Touch(id) => policy.touch(id),
                    Step::Remove(id) => { policy.remove(id); known.remove(&id); }
                    Step::Evict => match policy.evict() {
                        Some(id) => prop_assert!(known.remove(&id), "{kind:?}: {id} was not known"),
                        None => prop_assert!(known.is_empty(), "{kind:?} keeps {known:?}"),
                    },
                }
                let order: Vec<Id> = policy.order().collect();
                prop_assert_eq!(order.len(), known.len(), "{:?}", kind);
                prop_assert_eq!(&order.into_iter().collect::<HashSet<_>>(), &known, "{:?}", kind);
            }
        }
    }

    /// LRU is a list in which the used element moves to the end; its order is the order in which it evicts.
    #[test]
    fn lru_is_a_list_in_order_of_use(steps in prop::collection::vec(step(), 0..300)) {
        let mut lru = Lru::default();
        let mut list: Vec<Id> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(id, size) => if !list.contains(&id) { lru.insert(id, 0, size); list.push(id) },
                Step::Touch(id) => {
                    lru.touch(id);
                    if let Some(at) = list.iter().position(|other| *other == id) {
                        let id = list.remove(at);
                        list.push(id);
                    }
                }
                Step::Remove(id) => { lru.remove(id); list.retain(|other| *other != id) }
                Step::Evict => prop_assert_eq!(lru.evict(), (!list.is_empty()).then(|| list.remove(0))),
            }
            prop_assert_eq!(lru.order().collect::<Vec<_>>(), list.clone());
        }
    }

    /// The greedy policies evict in the order they tell, while nothing is used.
    #[test]
    fn greedy_goes_by_priority(sizes in prop::collection::vec(0..1u64 << 32, 1..60), uses in prop::collection::vec(0..60u32, 0..200)) {
        for mut policy in [Greedy::gdsf(), Greedy::lfu_da()] {
            for (id, size) in sizes.iter().enumerate() {
                policy.insert(id as Id, 0, *size);
            }
            uses.iter().for_each(|id| policy.touch(*id));
            let order: Vec<Id> = policy.order().collect();
            let evicted: Vec<Id> = std::iter::from_fn(|| policy.evict()).collect();
            prop_assert_eq!(order, evicted);
        }
    }
}

#[test]
fn what_each_policy_is_for() {
    // A scan of objects used once does not wash out what is used again and again, except with LRU.
    for kind in Kind::ALL {
        let mut policy = super::policy(kind);
        let mut held: HashMap<Id, u64> = HashMap::new();
        for id in 0..10 {
            policy.insert(id, u64::from(id), 1 << 20);
            held.insert(id, 1 << 20);
        }
        for _ in 0..5 {
            (0..10).for_each(|id| policy.touch(id));
        }
        for id in 100..130 {
            policy.insert(id, u64::from(id), 1 << 20);
            held.insert(id, 1 << 20);
            while held.len() > 20 {
                held.remove(&policy.evict().unwrap());
            }
        }
        let kept = (0..10).filter(|id| held.contains_key(id)).count();
        let expected = if kind == Kind::Lru { 0 } else { 10 };
        assert_eq!(kept, expected, "{kind:?}");
    }
}

#[test]
fn gdsf_prefers_small_objects_and_lfu_da_does_not_care() {
    let mut gdsf = Greedy::gdsf();
    gdsf.insert(0, 0, 1 << 10);
    gdsf.insert(1, 0, 1 << 30);
    assert_eq!(gdsf.evict(), Some(1));
    let mut lfu = Greedy::lfu_da();
    lfu.insert(0, 0, 1 << 10);
    lfu.insert(1, 0, 1 << 30);
    assert_eq!(lfu.evict(), Some(0));
}

/// What is often used is still told from what was used once after a restart, where the policy cares.
#[test]
fn heat_outlives_a_restart() {
    for kind in [Kind::S3Fifo, Kind::Sieve, Kind::Gdsf, Kind::LfuDa] {
        let mut before = super::policy(kind);
        for id in 0..20 {
            before.insert(id, u64::from(id), 1 << 20);
        }
        for _ in 0..3 {
            (0..5).for_each(|id| before.touch(id));
        }
        // As the scan takes them in: by their last use, which does not favour the first five here.
        let mut after = super::policy(kind);
        for id in 0..20 {
            assert!(before.heat(id) <= MAX_HEAT);
            after.restore(id, u64::from(id), 1 << 20, before.heat(id));
        }
        let gone: Vec<Id> = std::iter::from_fn(|| after.evict()).take(15).collect();
        assert!(gone.iter().all(|id| *id >= 5), "{kind:?}: {gone:?}");
    }
}
