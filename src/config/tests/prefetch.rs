//! `[[prefetch]]`: images that are kept warm.

use super::*;

#[test]
fn images_to_be_kept_warm_are_parsed_with_the_file() {
    let text = r#"
[[prefetch]]
images = ["alpine:3.20", "registry.k8s.io/pause:3.*"]
platforms = ["linux/arm64/v8", "linux/amd64"]
[[prefetch]]
images = "ghcr.io/acme/app"
every = "1h"
"#;
    let config = good(text);
    let shown = |entry: &Prefetch| {
        let images: Vec<_> = entry.images.iter().map(ToString::to_string).collect();
        (images.join(" "), entry.platforms.to_string(), entry.every.as_secs())
    };
    assert_eq!(
        config.prefetch.iter().map(shown).collect::<Vec<_>>(),
        [
            (
                "docker.io/library/alpine:3.20 registry.k8s.io/pause:3.*".to_owned(),
                "linux/amd64,linux/arm64/v8".to_owned(),
                21600
            ),
            ("ghcr.io/acme/app:latest".to_owned(), "all".to_owned(), 3600),
        ]
    );
    assert!(matches!(config.prefetch[0].images[1], Wish::Tags(..)));
}

#[test]
fn what_cannot_be_kept_warm_is_told_with_its_place() {
    let text = r#"
[[prefetch]]
images = ["alpine:3.20", "Alpine:3"]
platforms = ["linux/amd64", "linux"]
[[prefetch]]
images = ["alpine@sha256:1"]
platforms = "linux/amd64,linux/arm64"
evry = "1h"
[[prefetch]]
images = ["registry.k8s.io/pause:3.["]
every = "0s"
"#;
    let image =
        "an image such as \"docker.io/library/alpine:3.20\", or a pattern of its tags such as \"registry.k8s.io/pause:3.*\"";
    let expected = format!(
        r#"t.toml:3:26: prefetch.images: "Alpine:3" is not {image}: a repository is lower-case components separated by '/', 255 characters at most
t.toml:4:29: prefetch.platforms: "linux" is not a platform such as "linux/amd64"
t.toml:6:11: prefetch.images: this is not {image}: the digest's hex part must be 64 lower-case hexadecimal characters"#
    );
    let found = wrong(text);
    assert!(found.starts_with(&expected), "{found}");
    for line in [
        "t.toml:7:13: prefetch.platforms: \"linux/amd64,linux/arm64\" is not a platform such as \"linux/amd64\": several are a list: [\"linux/amd64\", \"linux/arm64\"]",
        "t.toml:8:1: prefetch.evry: unknown field `evry`",
        &format!(
            "t.toml:10:11: prefetch.images: \"registry.k8s.io/pause:3.[\" is not {image}: \"3.[\": unclosed character class"
        ),
        "t.toml:11:9: prefetch.every: \"0s\" is not a time above zero",
    ] {
        assert!(found.lines().any(|found| found.starts_with(line)), "{line}\n{found}");
    }
    assert_eq!(found.lines().count(), 7, "{found}");
    let empty = wrong("[[prefetch]]\nimages = \"a\"\n[[prefetch]]\nevery = \"1h\"\n");
    assert!(empty.ends_with("prefetch: [[prefetch]] needs images = [\"IMAGE\", …]"), "{empty}");
    assert!(wrong("[[prefetch]]\nimages = 3\n").starts_with("t.toml:2:10: prefetch.images: invalid type: integer `3`"));
}
