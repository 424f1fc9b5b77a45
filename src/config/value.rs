//! One value of the file: its grammar, and what to say when it is something else.
//!
//! A [`Value`] is parsed while serde reads the file, so that the TOML parser adds the place to every error; what
//! concerns several keys is checked afterwards, by `build`.

mod kinds;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Unexpected, Visitor};

pub(super) use kinds::{
    AdminListen, Count, HelperName, Host, Level, Parts, Prefix, Rate, RepositoryGlob, Size, TagPattern, Time, TimeOrForever,
    Timeout,
};

/// What a key takes: text, and for some a whole number.
pub(super) trait Value: Sized {
    /// Completes "expected …" and "… is not …".
    const EXPECTED: &'static str;

    /// From text. The error says why not, without repeating `text`; it may be empty.
    fn text(text: &str) -> Result<Self, String>;

    /// From a whole number; `None` when that is the wrong type.
    fn integer(_number: i64) -> Option<Result<Self, String>> {
        None
    }
}

/// A key with one [`Value`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct One<T>(pub T);

/// A key with one [`Value`] or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Many<T>(pub Vec<T>);

fn refusal<T: Value, E: de::Error>(found: &str, reason: &str) -> E {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    // What stands before an '@' may be a password (I9).
    if found.contains('@') {
        E::custom(format_args!("this is not {}{reason}", T::EXPECTED))
    } else {
        E::custom(format_args!("{found} is not {}{reason}", T::EXPECTED))
    }
}

struct OneVisitor<T>(PhantomData<T>);

impl<T: Value> Visitor<'_> for OneVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::text(text).map_err(|reason| refusal::<T, E>(&format!("{text:?}"), &reason))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match T::integer(number) {
            Some(value) => value.map_err(|reason| refusal::<T, E>(&number.to_string(), &reason)),
            None => Err(E::invalid_type(Unexpected::Signed(number), &self)),
        }
    }
}

impl<'de, T: Value> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneVisitor(PhantomData)).map(Self)
    }
}

struct ManyVisitor<T>(PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for ManyVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of them", T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        OneVisitor(PhantomData).visit_str(text).map(|value| vec![value])
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        OneVisitor(PhantomData).visit_i64(number).map(|value| vec![value])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(One(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}

impl<'de, T: Value> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ManyVisitor(PhantomData)).map(Self)
    }
}
