//! Patterns that can match nothing: in a rule that denies, they would let everything through.

use super::*;

/// What is said of `pattern`, alone in a list of this key.
#[track_caller]
fn refused(table: &str, key: &str, pattern: &str) -> String {
    let text = format!("{table}\n{key} = [\"x.example/**\", {pattern:?}]\n");
    let text = if key == "pull" { format!("{text}who = \"anyone\"\n[upstream.\"x.example\"]\n") } else { text };
    let error = wrong(&text);
    let at = format!("t.toml:2:{}: ", key.len() + 21);
    error.strip_prefix(&at).unwrap_or_else(|| panic!("{error} is not at {at}")).to_owned()
}

#[test]
fn a_pattern_of_an_upstream_that_can_match_no_repository_is_an_error() {
    let hub = "[upstream.\"docker.io\"]";
    for (pattern, told) in [
        ("library/alpine:latest", "patterns are of repositories, which have no tag: write \"library/alpine\""),
        ("library/alpine:*", "patterns are of repositories, which have no tag: write \"library/alpine\""),
        ("alpine:3", "patterns are of repositories, which have no tag: write \"library/alpine\""),
        ("library/alpine@sha256:1", "patterns are of repositories, which have no digest: write \"library/alpine\""),
        ("alpine", "every repository of docker.io has two parts or more: write \"library/alpine\""),
        ("alp*", "every repository of docker.io has two parts or more: write \"library/alp*\""),
        ("*", "every repository of docker.io has two parts or more: write \"**\" for all of them"),
        ("{alpine,library/busybox}", "every repository of docker.io has two parts or more: write \"library/alpine\""),
        ("docker.io/library/*", "patterns here are of repositories of docker.io: write \"library/*\""),
        ("index.docker.io/library/*", "patterns here are of repositories of docker.io: write \"library/*\""),
        ("docker.io", "patterns here are of repositories of docker.io: write \"**\" for all of them"),
        ("docker.io/alpine:3", "patterns here are of repositories of docker.io: write \"library/alpine\""),
        ("Library/*", "repositories are written in lower case: write \"library/*\""),
        ("library/", "a repository neither begins nor ends with '/': write \"library/**\""),
        ("/library/*", "a repository neither begins nor ends with '/': write \"library/*\""),
        ("library//a", "no repository can be called so: a repository is lower-case components"),
        ("library/a b", "no repository can be called so: a repository is lower-case components"),
        ("library/a..b", "no repository can be called so: a repository is lower-case components"),
    ] {
        for key in ["deny", "allow"] {
            let error = refused(hub, key, pattern);
            let expected = format!("upstream.\"docker.io\".{key}: {pattern:?} can match nothing: {told}");
            assert!(error.starts_with(&expected), "{error}\n{expected}");
        }
    }
    let error = refused("[upstream.\"localhost:6000\"]", "deny", "localhost:6000/team/*");
    assert!(error.ends_with("patterns here are of repositories of localhost:6000: write \"team/*\""), "{error}");
    let error = refused("[upstream.\"r.example\"]", "deny", "team/app:1");
    assert!(error.ends_with("write \"team/app\""), "{error}");
}

#[test]
fn what_may_match_stays_right() {
    good(
        r#"
[upstream."docker.io"]
allow = ["**", "library/*", "team/{a,b}", "**/alpine", "*/alpine", "lib[a-z]ary/**", "{library,team}/**", "team/**/x"]
[upstream."r.example"]
deny = ["alpine", "*", "docker.io/library/*", "a.b/c", "a_b__c--d", "{a,{b,c}/d}", "x?", "r.example/a"]
[[upstream."r.example".freshness.rule]]
repositories = ["alpine", "team/*"]
fresh_for = "1m"
[upstream."localhost:6000"]
[upstream."off.example"]
enabled = false
[[access.rule]]
who = "anyone"
pull = ["**", "*", "docker.io", "docker.io/**", "*.io/team/**", "{ghcr,quay}.io", "*/alpine", "localhost:6000/team/*", "localhost:6000",
        "off.example/**", "**/secret", "**/localhost:6000/a", "{docker.io/library,ghcr.io}/*", "r.example/docker.io/library/*"]
[cache.quota]
"gone.example" = { unused_for = "1day" }
"docker.io/team/*" = { unused_for = "1day" }
"**" = { unused_for = "1day" }
[[prefetch]]
images = ["alpine", "r.example/a:1.*"]
"#,
    );
}

#[test]
fn a_rule_for_what_is_on_no_upstream_is_an_error() {
    let names = "the upstreams are docker.io, gcr.io";
    for (pattern, told) in [
        (
            "registry.k8s.io/pause:3.9",
            "patterns are of repositories, which have no tag: write \"registry.k8s.io/pause\"".to_owned(),
        ),
        ("pause", "it begins with an upstream, and none can be called \"pause\": write \"docker.io/library/pause\"".to_owned()),
        (
            "library/**",
            "it begins with an upstream, and none can be called \"library\": write \"docker.io/library/**\"".to_owned(),
        ),
        ("dokcer.io/**", "there is no upstream \"dokcer.io\": did you mean \"docker.io\"?".to_owned()),
        ("team.internal/**", format!("there is no upstream \"team.internal\": {names}")),
        ("index.docker.io/library/*", "there is no upstream \"index.docker.io\": did you mean \"docker.io\"?".to_owned()),
        ("*.internal/**", format!("no upstream is called like \"*.internal\": {names}")),
        ("{docker,quai}.io/**", "there is no upstream \"quai.io\": did you mean \"quay.io\"?".to_owned()),
        (
            "docker.io/alpine",
            "every repository of docker.io has two parts or more: write \"docker.io/library/alpine\"".to_owned(),
        ),
        ("docker.io/*", "every repository of docker.io has two parts or more: write \"docker.io/**\" for all of them".to_owned()),
        ("ghcr.io/Acme/**", "repositories are written in lower case: write \"ghcr.io/acme/**\"".to_owned()),
        ("ghcr.io/", "a repository neither begins nor ends with '/': write \"ghcr.io/**\"".to_owned()),
        ("**/alpine:3", "patterns are of repositories, which have no tag: write \"**/alpine\"".to_owned()),
        ("{ghcr.io,quay.io/acme}", "it names no repository: write \"ghcr.io/**\"".to_owned()),
    ] {
        let error = refused("[[access.rule]]", "pull", pattern);
        let expected = format!("access.rule.pull: {pattern:?} can match nothing: {told}");
        assert!(error.starts_with(&expected), "{error}\n{expected}");
    }
}

/// An offline mirror serves whatever is in its folder, of whomever it is.
#[test]
fn an_offline_mirror_may_have_upstreams_that_the_file_does_not_name() {
    let rule = "[[access.rule]]\nwho = \"anyone\"\n[cache]\noffline = true\n";
    good(&rule.replace("\n[cache]", "\npull = [\"r.example/**\", \"*.internal\"]\n[cache]"));
    assert!(wrong(&rule.replace("\n[cache]", "\npull = \"library/**\"\n[cache]")).contains("none can be called \"library\""));
}

#[test]
fn a_rule_is_told_where_it_stands() {
    let text = "[[access.rule]]\nwho = \"anyone\"\npull = \"docker.io\"\n[[access.rule]]\nwho = \"anyone\"\ndeny = true\n\
                pull = [\"ghcr.io\",\n  \"pause\"]\n[[access.rule]]\nwho = \"anyone\"\npull = \"pause\"\n";
    let told = "access.rule.pull: \"pause\" can match nothing: it begins with an upstream, and none can be called \"pause\": \
                write \"docker.io/library/pause\"";
    assert_eq!(wrong(text), format!("t.toml:8:3: {told}\nt.toml:11:8: {told}"));
}

#[test]
fn quotas_and_rules_of_freshness_match_something_too() {
    for (text, told) in [
        (
            "[cache.quota.\"ghcr.io/acme/app:1\"]\nunused_for = \"1day\"",
            "t.toml:1:14: cache.quota.\"ghcr.io/acme/app:1\": it can match nothing: patterns are of repositories, which have no tag",
        ),
        (
            "[cache.quota.\"library\"]\nunused_for = \"1day\"",
            "t.toml:1:14: cache.quota.library: it can match nothing: it begins with an upstream, and none can be called \"library\"",
        ),
        (
            "[[freshness.rule]]\nrepositories = \"library/alpine:3\"\nfresh_for = \"1m\"",
            "t.toml:2:16: freshness.rule.repositories: \"library/alpine:3\" can match nothing: patterns are of repositories",
        ),
        (
            "[[upstream.\"docker.io\".freshness.rule]]\nrepositories = [\"alpine\"]\nfresh_for = \"1m\"",
            "t.toml:2:17: upstream.\"docker.io\".freshness.rule.repositories: \"alpine\" can match nothing: every repository of docker.io",
        ),
        (
            "[[prefetch]]\nimages = [\"alpine\", \"dokcer.io/library/alpine\"]",
            "t.toml:2:21: prefetch.images: there is no upstream \"dokcer.io\": did you mean \"docker.io\"?",
        ),
        (
            "[upstream.\"docker.io\"]\ncredentials = [{ prefix = \"docker.io/acme\", helper = \"x\" }]",
            "t.toml:2:27: upstream.\"docker.io\".credentials.prefix: \"docker.io/acme\" can match nothing: it begins a repository of docker.io: write \"acme\"",
        ),
    ] {
        let error = wrong(text);
        assert!(error.starts_with(told), "{error}\n{told}");
    }
}

/// A registry may hold other registries' images under their names, its own among them; it is seldom what was meant.
#[test]
fn what_is_seldom_meant_is_doubted() {
    let config = good(
        "[upstream.\"r.example\"]\nallow = [\"team/*\", \"docker.io/**\"]\ndeny = [\"r.example/team/*\"]\n\
         [[freshness.rule]]\nrepositories = [\"team/*\", \"r.example/team/*\"]\nfresh_for = \"1m\"\n",
    );
    assert_eq!(
        config.doubts(),
        [
            "upstream.\"r.example\".deny: \"r.example/team/*\" matches only repositories of r.example that begin with its own name; \
             to mean the others, write \"team/*\"",
            "freshness.rule.repositories: \"r.example/team/*\" matches only repositories that begin with the name of a registry; \
             for those of r.example, write \"team/*\" under [upstream.\"r.example\".freshness]",
        ]
    );
    assert_eq!(Config::default().doubts(), Vec::<String>::new());
}
