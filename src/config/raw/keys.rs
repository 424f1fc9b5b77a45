//! Which keys a table has, asked of serde itself so that no second list can go stale.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor, value::UnitDeserializer};
use serde::forward_to_deserialize_any;

use super::{Access, Admin, Breaker, Cache, CredentialsTable, Fill, Freshness, Import, Log, Quota, Raw, Server, Tls, Upstream};

/// The keys that may stand in the table at `path`; `None` where any key may, or where there is no table of ours.
pub(in crate::config) fn known_keys(path: &[String]) -> Option<&'static [&'static str]> {
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    match path[..] {
        [] => keys_of::<Raw>(),
        ["server"] => keys_of::<Server>(),
        ["access"] => keys_of::<Access>(),
        ["server" | "admin", "tls"] => keys_of::<Tls>(),
        ["admin"] => keys_of::<Admin>(),
        ["cache"] => keys_of::<Cache>(),
        ["cache", "quota", _] => keys_of::<Quota>(),
        ["freshness"] | ["upstream", _, "freshness"] => keys_of::<Freshness>(),
        ["upstream", _, "breaker"] => keys_of::<Breaker>(),
        ["upstream", _] => keys_of::<Upstream>(),
        ["upstream", _, "credentials"] => keys_of::<CredentialsTable>(),
        ["import"] => keys_of::<Import>(),
        ["fill"] => keys_of::<Fill>(),
        ["log"] => keys_of::<Log>(),
        _ => None,
    }
}

fn keys_of<'de, T: Deserialize<'de>>() -> Option<&'static [&'static str]> {
    match T::deserialize(Asker) {
        Err(Answer(keys)) => keys,
        Ok(_) => None,
    }
}

/// Reads nothing: it fails with the names of the fields that the type asks for.
struct Asker;

#[derive(Debug)]
struct Answer(Option<&'static [&'static str]>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

impl<'de> Deserializer<'de> for Asker {
    type Error = Answer;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer(Some(fields)))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        UnitDeserializer::new().deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
