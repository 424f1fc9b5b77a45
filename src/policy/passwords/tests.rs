use std::path::Path;
use std::time::Instant as Wall;

use super::super::Why;
use super::*;

fn hash(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).unwrap()
}

fn file(users: &[(&str, &str)]) -> Htpasswd {
    let lines: Vec<_> = users.iter().map(|(user, password)| format!("{user}:{}", hash(password, 4))).collect();
    Htpasswd::parse(Path::new("users"), &lines.join("\n")).unwrap()
}

fn login(user: &str, password: &str) -> Login {
    Login::new(user, Secret::new(password)).unwrap()
}

fn place(number: u8) -> Key {
    Key::Address([10, 0, 0, number].into())
}

fn passwords() -> Passwords {
    Passwords::new(Arc::new(Metrics::new()))
}

impl Passwords {
    fn checks(&self, result: &str) -> u64 {
        self.metrics.password_checks_total.with_label_values(&[result]).get()
    }
}

const WRONG: Result<(), Refused> = Err(Refused::SignIn(Why::WrongPassword));

#[tokio::test]
async fn a_right_password_is_checked_once_however_many_ask() {
    let (passwords, file) = (Arc::new(passwords()), Arc::new(file(&[("alice", "secret")])));
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let (passwords, file) = (passwords.clone(), file.clone());
            tokio::spawn(async move { passwords.check(&file, &login("alice", "secret"), place(1)).await })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), Ok(()));
    }
    assert_eq!(passwords.check(&file, &login("alice", "secret"), place(2)).await, Ok(()));
    assert_eq!((passwords.checks("right"), passwords.checks("wrong")), (1, 0));
}

#[tokio::test]
async fn a_wrong_one_is_not_remembered_and_tells_nobody_who_exists() {
    let (passwords, file) = (passwords(), file(&[("alice", "secret")]));
    for (user, password) in [("alice", "wrong"), ("alice", ""), ("bob", "secret"), ("Alice", "secret"), ("alice ", "secret")] {
        assert_eq!(passwords.check(&file, &login(user, password), place(1)).await, WRONG, "{user}");
    }
    assert_eq!(passwords.checks("wrong"), 5, "each was hashed, be there such a user or not");
    assert_eq!(passwords.check(&file, &login("alice", "secret"), place(1)).await, Ok(()));
}

#[test]
fn nobody_costs_as_much_as_somebody() {
    // What is checked for a user that does not exist is a hash of the same cost, and one that can be computed.
    for cost in [4, 10] {
        let nobody = format!("$2y${cost:02}$......................{}", ".".repeat(31));
        assert_eq!(nobody.parse::<bcrypt::HashParts>().unwrap().get_cost(), cost);
        assert!(!bcrypt::verify("secret", &nobody).unwrap());
    }
}

#[tokio::test]
async fn a_new_password_ends_the_old_one_at_once() {
    let passwords = passwords();
    let (old, new) = (file(&[("alice", "old")]), file(&[("alice", "new")]));
    assert_eq!(passwords.check(&old, &login("alice", "old"), place(1)).await, Ok(()));
    assert_eq!(passwords.check(&new, &login("alice", "old"), place(1)).await, WRONG);
    assert_eq!(passwords.check(&new, &login("alice", "new"), place(1)).await, Ok(()));
    assert_eq!(passwords.check(&file(&[]), &login("alice", "old"), place(1)).await, WRONG, "taken out of the file");
}

#[tokio::test(start_paused = true)]
async fn guessing_ends_after_ten_a_minute_and_hurts_nobody_else() {
    let (passwords, file) = (passwords(), file(&[("alice", "secret"), ("bob", "hidden")]));
    assert_eq!(passwords.check(&file, &login("bob", "hidden"), place(1)).await, Ok(()));
    for guess in 0..10 {
        assert_eq!(passwords.check(&file, &login("alice", &guess.to_string()), place(1)).await, WRONG);
    }
    let refused = passwords.check(&file, &login("alice", "secret"), place(1)).await;
    assert!(matches!(refused, Err(Refused::TooMany { wait, .. }) if wait <= WINDOW), "{refused:?}");
    assert_eq!(passwords.checks("wrong"), 10, "not even hashed");
    assert_eq!(passwords.check(&file, &login("bob", "hidden"), place(1)).await, Ok(()), "who has signed in from there goes on");
    assert_eq!(passwords.check(&file, &login("alice", "secret"), place(2)).await, Ok(()), "from elsewhere");
    tokio::time::advance(WINDOW).await;
    assert_eq!(passwords.check(&file, &login("alice", "secret"), place(1)).await, Ok(()), "and a minute later");
}

#[tokio::test]
async fn guesses_at_one_moment_are_no_more_than_one_after_the_other() {
    let (passwords, file) = (Arc::new(passwords()), Arc::new(file(&[("alice", "secret")])));
    let guess = |number: usize| {
        let (passwords, file) = (passwords.clone(), file.clone());
        tokio::spawn(async move { passwords.check(&file, &login("alice", &number.to_string()), place(1)).await })
    };
    let guesses: Vec<_> = (0..WAITING).map(guess).collect();
    let mut wrong = 0;
    for guess in guesses {
        wrong += usize::from(guess.await.unwrap() == WRONG);
    }
    // Each turn may have begun the one that was one too many.
    assert!((FAILURES as usize..FAILURES as usize + passwords.turns.available_permits()).contains(&wrong), "{wrong}");
    assert_eq!(passwords.checks("wrong"), wrong as u64);
    assert_eq!(passwords.checks("locked_out"), (WAITING - wrong) as u64);
}

#[tokio::test]
async fn a_flood_of_checks_is_turned_away() {
    // Slow hashes, and more callers than may wait.
    let users = format!("alice:{}", hash("secret", 12));
    let file = Arc::new(Htpasswd::parse(Path::new("users"), &users).unwrap());
    let passwords = Arc::new(passwords());
    let started = Wall::now();
    let asked: Vec<_> = (0..WAITING + 50)
        .map(|number| {
            let (passwords, file) = (passwords.clone(), file.clone());
            let key = Key::Address(std::net::Ipv4Addr::from_bits(number as u32).into());
            tokio::spawn(async move { passwords.check(&file, &login("alice", &number.to_string()), key).await })
        })
        .collect();
    let mut busy = 0;
    for asked in asked {
        // Those in the queue are left there: each would take its half second.
        match tokio::time::timeout(Duration::from_millis(1), asked).await {
            Ok(answer) => busy += usize::from(matches!(answer.unwrap(), Err(Refused::TooMany { .. }))),
            Err(_) => continue,
        }
    }
    assert!(busy >= 40, "{busy} were turned away in {:?}", started.elapsed());
}

#[test]
fn a_remembered_login_is_not_the_login() {
    let passwords = passwords();
    let keyed = |user: &str, password: &str| passwords.keyed(&login(user, password), None);
    assert_eq!(keyed("a", "bc"), keyed("a", "bc"));
    assert_ne!(keyed("a", "bc"), keyed("ab", "c"), "lengths count");
    assert_ne!(keyed("a", "bc"), super::tests::passwords().keyed(&login("a", "bc"), None), "another key in another process");
}
