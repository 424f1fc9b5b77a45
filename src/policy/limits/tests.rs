use super::*;

fn key(number: u8) -> Key {
    Key::Address([10, 0, 0, number].into())
}

#[tokio::test(start_paused = true)]
async fn a_burst_and_then_the_pace() {
    let (meter, pace) = (Meter::new(), Pace { per_second: 10, burst: 5 });
    for _ in 0..5 {
        meter.take(key(1), pace).unwrap();
    }
    assert_eq!(meter.take(key(1), pace).unwrap_err(), Duration::from_millis(100));
    meter.take(key(2), pace).expect("somebody else's");
    tokio::time::advance(Duration::from_millis(100)).await;
    meter.take(key(1), pace).unwrap();
    assert!(meter.take(key(1), pace).is_err());
    tokio::time::advance(Duration::from_secs(60)).await;
    let taken = (0..20).filter(|_| meter.take(key(1), pace).is_ok()).count();
    assert_eq!(taken, 5, "what was not used is not saved up beyond the burst");
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_waited_for_in_turn_and_given_back() {
    let fills = Arc::new(Fills::default());
    let patience = Duration::from_secs(10);
    let one = fills.slot(key(1), 2, patience).await.unwrap();
    let two = fills.slot(key(1), 2, patience).await.unwrap();
    assert!(fills.slot(key(1), 2, patience).await.is_none(), "ten seconds later");
    fills.slot(key(2), 2, patience).await.expect("somebody else's");
    let waiting = tokio::spawn({
        let fills = fills.clone();
        async move { fills.slot(key(1), 2, patience).await.is_some() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(one);
    assert!(waiting.await.unwrap());
    drop(two);
    assert!(fills.begun.lock().is_empty(), "nobody is remembered who runs nothing");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_waits_is_forgotten() {
    let fills = Arc::new(Fills::default());
    let held = fills.slot(key(1), 1, Duration::from_secs(10)).await.unwrap();
    let left = tokio::time::timeout(Duration::from_secs(1), fills.slot(key(1), 1, Duration::from_secs(10))).await;
    assert!(left.is_err());
    drop(held);
    assert!(fills.begun.lock().is_empty());
}
