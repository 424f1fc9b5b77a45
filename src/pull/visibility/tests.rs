use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::asker::Secrecy;
use super::patience::{Patience, REFUSALS, WINDOW};
use crate::config::Secret;
use crate::oci::Scope;
use crate::policy::Login;

fn login(username: &str, password: &str) -> Login {
    Login::new(username, Secret::new(password)).unwrap()
}

fn scope(upstream: &str, repository: &str) -> Scope {
    Scope { upstream: upstream.parse().unwrap(), repository: repository.parse().unwrap() }
}

#[test]
fn a_key_is_of_one_login_at_one_repository_in_one_process() {
    let secrecy = Secrecy::default();
    let own = secrecy.key(&scope("r.example", "team/app"), &login("alice", "word"));
    assert_eq!(own, secrecy.key(&scope("r.example", "team/app"), &login("alice", "word")));
    for other in [
        secrecy.key(&scope("s.example", "team/app"), &login("alice", "word")),
        secrecy.key(&scope("r.example", "team/apps"), &login("alice", "word")),
        secrecy.key(&scope("r.example", "team/app"), &login("alic", "eword")),
        secrecy.key(&scope("r.example", "team/app"), &login("alice", "words")),
        secrecy.key(&scope("r.example", "team/app"), &login("a", "liceword")),
        Secrecy::default().key(&scope("r.example", "team/app"), &login("alice", "word")),
    ] {
        assert_ne!(own, other);
    }
    assert_eq!(format!("{own:?} {secrecy:?}"), "Key(…) Secrecy(Keyed(…))");
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn refusals_run_out_and_come_back_and_are_an_address_own() {
    let patience = Patience::default();
    for _ in 0..REFUSALS {
        patience.turn(address("2001:db8::1")).await.unwrap().refused();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let wait = patience.turn(address("2001:db8::2")).await.map(drop).unwrap_err();
    assert_eq!(wait, WINDOW - Duration::from_secs(REFUSALS as u64), "the whole /64 is one");
    patience.turn(address("2001:db8:0:1::1")).await.unwrap();
    patience.turn(None).await.unwrap();
    tokio::time::advance(wait).await;
    patience.turn(address("2001:db8::1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn checks_that_succeed_cost_nothing_and_many_at_once_take_turns() {
    let patience = Arc::new(Patience::default());
    let from = address("192.0.2.1");
    let mut turns = Vec::new();
    for _ in 0..REFUSALS {
        turns.push(patience.turn(from).await.unwrap());
    }
    let next = {
        let patience = patience.clone();
        tokio::spawn(async move { patience.turn(from).await.map(drop) })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!next.is_finished(), "as many as may be refused are under way");
    drop(turns.pop());
    next.await.unwrap().unwrap();
    // All that run are refused in the end: nobody waits for ever.
    let next = {
        let patience = patience.clone();
        tokio::spawn(async move { patience.turn(from).await.map(drop) })
    };
    turns.push(patience.turn(from).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    for turn in turns.drain(..) {
        turn.refused();
    }
    assert!(next.await.unwrap().is_err());
}
