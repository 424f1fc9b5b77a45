//! The grammar of `WWW-Authenticate` (RFC 9110 §11.6.1), read as leniently as registries write it.
//!
//! Several challenges may share a line or have one each; parameters come in any order, quoted or not, with commas and
//! escapes inside the quotes. Whatever is read is only a wish: whether a realm gets credentials is decided by
//! [`super::realm`]. Pure; never panics, whatever the bytes.

use std::fmt;

use http::{HeaderMap, header};

/// One challenge: a scheme and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Lower-case: `bearer`, `basic`.
    pub scheme: String,
    /// Names lower-case, in the order received.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of this name that is not empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scheme)?;
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            let escaped = value.replace('\\', r"\\").replace('"', r#"\""#);
            write!(f, "{}{name}=\"{escaped}\"", if index == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// All challenges of an answer, over all its header lines. Lines that are no text are passed over.
pub fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(header::WWW_AUTHENTICATE).iter();
    lines.filter_map(|line| std::str::from_utf8(line.as_bytes()).ok()).flat_map(parse).collect()
}

/// The challenge that the mirror answers: a Bearer one with a realm, else Basic.
pub fn preferred(challenges: &[Challenge]) -> Option<&Challenge> {
    let bearer = challenges.iter().find(|challenge| challenge.scheme == "bearer" && challenge.parameter("realm").is_some());
    bearer.or_else(|| challenges.iter().find(|challenge| challenge.scheme == "basic"))
}

/// Reads one header value.
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut rest = value;
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let (word, after) = rest.split_at(rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len()));
        let behind = after.trim_start_matches([' ', '\t']);
        rest = match behind.strip_prefix('=') {
            // `name=value` belongs to the challenge before it; without one there is nothing it could belong to.
            Some(raw) => {
                let (value, end) = parameter_value(raw.trim_start_matches([' ', '\t']));
                if let Some(challenge) = challenges.last_mut().filter(|_| !word.is_empty()) {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                end
            }
            // A lone word begins a challenge, if it can be a scheme. A `token68` (Negotiate's) is passed over as one.
            None => {
                if !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
                    challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                }
                behind.strip_prefix('"').unwrap_or(behind)
            }
        };
    }
}

/// A quoted or bare value, and what is left behind it. A quote that is never closed ends with the line.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Bare values are often URLs, so that `=`, `:` and `/` are part of them.
        let (value, rest) = text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Challenge { scheme: scheme.to_owned(), parameters }
    }

    #[test]
    fn t30_what_registries_send() {
        let hub = challenge(
            "bearer",
            &[
                ("realm", "https://auth.docker.io/token"),
                ("service", "registry.docker.io"),
                ("scope", "repository:library/alpine:pull"),
            ],
        );
        for text in [
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
            r#"bearer  Realm = "https://auth.docker.io/token" , SERVICE="registry.docker.io",,scope="repository:library/alpine:pull","#,
            "Bearer realm=https://auth.docker.io/token,service=registry.docker.io, scope=repository:library/alpine:pull",
            r#"BEARER realm="https:\/\/auth.docker.io/token", service="registry.docker.io", scope="repository:library/alpine:pull"#,
        ] {
            assert_eq!(parse(text), std::slice::from_ref(&hub), "{text}");
        }
    }

    #[test]
    fn t30_commas_and_escapes_in_quotes() {
        assert_eq!(
            parse(r#"Bearer realm="https://a/t",scope="repository:a/b:pull,push",error_description="say \"no\", \\ ever""#),
            [challenge(
                "bearer",
                &[("realm", "https://a/t"), ("scope", "repository:a/b:pull,push"), ("error_description", r#"say "no", \ ever"#)]
            )]
        );
    }

    #[test]
    fn t30_several_challenges() {
        let both = parse(r#"Negotiate, Basic realm="x, y", Bearer realm="https://a/t""#);
        assert_eq!(
            both,
            [
                challenge("negotiate", &[]),
                challenge("basic", &[("realm", "x, y")]),
                challenge("bearer", &[("realm", "https://a/t")])
            ]
        );
        assert_eq!(preferred(&both).map(|challenge| challenge.scheme.as_str()), Some("bearer"));

        let mut lines = HeaderMap::new();
        for line in ["Basic realm=\"x\"", "Bearer service=\"without a realm\"", "Digest realm=\"d\""] {
            lines.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        let all = challenges(&lines);
        assert_eq!(all.len(), 3);
        assert_eq!(preferred(&all).map(|challenge| challenge.scheme.as_str()), Some("basic"));
        assert_eq!(preferred(&parse("Negotiate YII=, NTLM")), None);
    }

    #[test]
    fn odd_lines_are_survived() {
        for (text, schemes) in [
            ("", 0),
            (",,,", 0),
            ("=x", 0),
            ("realm=\"x\"", 0),
            ("\"\"\"", 0),
            ("Basic", 1),
            ("Basic =,\"", 0),
            ("Basic,,Basic", 2),
        ] {
            assert_eq!(parse(text).len(), schemes, "{text}");
        }
        assert_eq!(parse("Bearer realm=\"never closed"), [challenge("bearer", &[("realm", "never closed")])]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*", raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            parse(&text);
            parse(&String::from_utf8_lossy(&raw));
        }

        #[test]
        fn dense_syntax_never_panics(text in "[Bb=\"\\\\, \tä]{0,24}") {
            parse(&text);
        }

        #[test]
        fn what_is_printed_parses_back(list in proptest::collection::vec(
            ("[a-z][a-z0-9-]{0,8}", proptest::collection::vec(("[a-z_]{1,8}", "\\PC{0,16}"), 0..4)), 0..4)) {
            let list: Vec<_> = list.into_iter().map(|(scheme, parameters)| Challenge { scheme, parameters }).collect();
            let text = list.iter().map(Challenge::to_string).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(parse(&text), list);
        }
    }
}
