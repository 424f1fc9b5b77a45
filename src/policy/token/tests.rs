use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn claims(seconds: u64) -> Claims {
    let login = Login::new("robot", Secret::new("canary-password")).unwrap();
    Claims { user: Some(("alice".to_owned(), [7; 8])), login: Some(login), expires: NOW.after(Duration::from_secs(seconds)) }
}

fn key(text: &str) -> Tokens {
    Tokens::new(Some(&Secret::new(text))).unwrap()
}

#[test]
fn what_was_sealed_comes_out_until_it_is_over() {
    let tokens = Tokens::new(None).unwrap();
    let token = tokens.seal(&claims(300)).unwrap();
    let opened = tokens.open(&token, NOW).unwrap();
    assert_eq!(opened.user, Some(("alice".to_owned(), [7; 8])));
    let login = opened.login.unwrap();
    assert_eq!((login.username(), login.password().expose()), ("robot", "canary-password"));
    assert!(tokens.open(&token, NOW.after(Duration::from_millis(299_999))).is_some());
    assert!(tokens.open(&token, NOW.after(Duration::from_secs(300))).is_none());
    assert!(tokens.open(&token, NOW.after(Duration::from_secs(86_400))).is_none());
}

#[test]
fn a_token_of_a_mirror_whose_clock_was_ahead_is_not_good_for_years() {
    let tokens = Tokens::new(None).unwrap();
    let good = |seconds| tokens.open(&tokens.seal(&claims(seconds)).unwrap(), NOW).is_some();
    assert_eq!([86_400, 86_700, 365 * 86_400].map(good), [true, true, false]);
}

#[test]
fn mirrors_with_one_key_take_each_others_tokens_and_no_others() {
    let token = key("one key for all of the mirrors, long").seal(&claims(300)).unwrap();
    assert!(key("one key for all of the mirrors, long").open(&token, NOW).is_some());
    assert!(key("another key, which is just as long.").open(&token, NOW).is_none());
    assert!(Tokens::new(None).unwrap().open(&token, NOW).is_none());
    let (one, two) = (Tokens::new(None).unwrap(), Tokens::new(None).unwrap());
    assert!(two.open(&one.seal(&claims(300)).unwrap(), NOW).is_none(), "a key for each process");
}

#[test]
fn nothing_of_it_can_be_read_or_compared() {
    let tokens = Tokens::new(None).unwrap();
    let (one, two) = (tokens.seal(&claims(300)).unwrap(), tokens.seal(&claims(300)).unwrap());
    assert_ne!(one, two);
    let bytes = URL_SAFE_NO_PAD.decode(&one).unwrap();
    for word in ["alice", "robot", "canary"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    assert!(one.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')), "a token68 of RFC 7235: {one}");
    assert_eq!(format!("{tokens:?}"), "Tokens");
}

#[test]
fn another_password_is_another_mark() {
    assert_ne!(mark(&Secret::new("$2y$04$a")), mark(&Secret::new("$2y$04$b")));
}

proptest! {
    #[test]
    fn a_token_that_was_changed_opens_nothing(place in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<prop::sample::Index>()) {
        let tokens = key("one key for all of the mirrors, long");
        let token = tokens.seal(&claims(300)).unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(tokens.open(&URL_SAFE_NO_PAD.encode(&bytes), NOW).is_none());
        prop_assert!(tokens.open(&token[..cut.index(token.len())], NOW).is_none());
        let longer = format!("{token}A");
        prop_assert!(tokens.open(&longer, NOW).is_none());
    }

    #[test]
    fn what_is_no_token_opens_nothing(token in "\\PC{0,200}") {
        prop_assert!(key("one key for all of the mirrors, long").open(&token, NOW).is_none());
    }
}
