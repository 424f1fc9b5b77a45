//! T22: lists of what refers to a manifest.

use super::REPOSITORY;
use super::listings::next;
use crate::support::client::Response;
use crate::support::image::{Blob, Builder, Image, Index, OCI_INDEX};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, manifest_path};

/// An upstream with an image and two artifacts that refer to it.
pub(super) async fn with_artifacts() -> (Upstream, Image, [Image; 2]) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let artifact = |seed, kind| Builder::new(seed).layer(50).artifact(kind, &image.manifest).build();
    let artifacts = [artifact(2, "application/x.sbom"), artifact(3, "application/x.signature")];
    artifacts.iter().for_each(|artifact| up.push_untagged(REPOSITORY, artifact));
    (up, image, artifacts)
}

pub(super) fn referrers(subject: &Blob) -> String {
    format!("/v2/library/alpine/referrers/{}", subject.digest)
}

/// The digests that an answer lists; it must be an index in every respect.
fn digests(answer: &Response) -> Vec<String> {
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some(OCI_INDEX)));
    let document = answer.json();
    assert_eq!((&document["schemaVersion"], &document["mediaType"]), (&2.into(), &OCI_INDEX.into()));
    let entries = document["manifests"].as_array().unwrap().iter();
    entries.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

/// T22: an upstream that has the API.
#[tokio::test]
async fn t22_referrers_are_relayed() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::of(&up).await;
    let path = referrers(&image.manifest);
    let all = mirror.get(&path).await;
    let mut expected = artifacts.each_ref().map(|artifact| artifact.manifest.digest.to_string());
    expected.sort();
    assert_eq!((digests(&all), all.header("oci-filters-applied")), (expected.to_vec(), None));
    let sbom = mirror.get(&format!("{path}?artifactType=application%2Fx.sbom")).await;
    assert_eq!(digests(&sbom), [artifacts[0].manifest.digest.to_string()]);
    assert_eq!(sbom.header("oci-filters-applied"), Some("artifactType"));
    let none = mirror.get(&referrers(&artifacts[0].manifest)).await;
    assert_eq!(digests(&none), [] as [String; 0], "nothing refers to it, and that is no 404");
    let head = mirror.head(&path).await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    // Page by page, through the mirror.
    up.referrers(1);
    let mirror = Mirror::of(&up).await;
    let first = mirror.get(&format!("/docker.io{path}")).await;
    let target = next(&first).expect("a second page");
    assert!(target.starts_with(&format!("/docker.io{path}?")), "{target}");
    let second = mirror.get(&target).await;
    assert_eq!([digests(&first), digests(&second)].concat(), expected);
    assert_eq!(next(&second), None);
}

/// T22: a list that is there and cannot be passed on has no older one in its place, which would lack what is new.
#[tokio::test]
async fn t22_a_list_of_referrers_is_whole_or_an_error() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    let path = referrers(&image.manifest);
    assert_eq!(digests(&mirror.get(&path).await).len(), artifacts.len());
    let list = |body: String| Act::status(200).header("Content-Type", OCI_INDEX).body(body);
    let long = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"x":"{}"}}}}"#, "y".repeat(5 << 20));
    for (what, act) in [("too large", list(long)), ("unreadable", list(r#"{"manifests":5}"#.to_owned()))] {
        up.on("/v2/*/referrers/*").then(act);
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"), "{what}: {:?}", answer.head);
    }
    up.on("/v2/*/referrers/*").always(Act::raw(""));
    assert_eq!(digests(&mirror.get(&path).await).len(), artifacts.len(), "what is known is for when there is no answer");
}

/// T22: whoever has named a page has the API. That it does not give the page is an error, and not the end of the list.
#[tokio::test]
async fn t22_a_refused_page_of_referrers_is_no_empty_one() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(1);
    let mirror = Mirror::of(&up).await;
    let first = mirror.get(&referrers(&image.manifest)).await;
    assert_eq!(digests(&first).len(), 1);
    let second = next(&first).expect("a second page");
    let other = Act::status(200).header("Content-Type", "application/json");
    let acts = [400, 404, 405, 406, 410, 501].map(Act::status).into_iter().chain([other, Act::html()]);
    for act in acts {
        let what = format!("{act:?}");
        up.on("/v2/*/referrers/*").always(act);
        let answer = mirror.get(&second).await;
        assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"), "{what}: {}", answer.text());
    }
    up.on("/v2/*/referrers/*").clear();
    assert_eq!(digests(&mirror.get(&second).await).len(), artifacts.len() - 1);
    // A client that only says how much it wants at once has named no page.
    up.on("/v2/*/referrers/*").always(Act::status(404));
    let mirror = Mirror::of(&up).await;
    assert_eq!(digests(&mirror.get(&format!("{}?n=10", referrers(&image.manifest))).await), [] as [String; 0]);
}

/// T22: an upstream without the API; what its tag schema says is the answer, and never a 404.
#[tokio::test]
async fn t22_referrers_are_made_from_the_tag_schema() {
    let (up, image, artifacts) = with_artifacts().await;
    let mirror = Mirror::of(&up).await;
    let path = referrers(&image.manifest);
    assert_eq!(digests(&mirror.get(&path).await), [] as [String; 0]);
    let mut index: serde_json::Value = serde_json::from_slice(&Index::oci(artifacts.to_vec()).manifest.bytes).unwrap();
    for (entry, kind) in
        index["manifests"].as_array_mut().unwrap().iter_mut().zip(["application/x.sbom", "application/x.signature"])
    {
        entry["artifactType"] = kind.into();
    }
    let index = Blob::new(OCI_INDEX, index.to_string());
    up.push_manifest(REPOSITORY, &index);
    up.tag(REPOSITORY, &image.manifest.digest.to_string().replace(':', "-"), &index.digest);
    let mirror = Mirror::of(&up).await;
    let all = mirror.get(&path).await;
    assert_eq!(digests(&all), artifacts.each_ref().map(|artifact| artifact.manifest.digest.to_string()));
    // However an upstream says that it has no such API.
    for status in [400, 404, 405, 406, 501] {
        up.on("/v2/*/referrers/*").always(Act::status(status));
        let answer = Mirror::of(&up).await.get(&path).await;
        assert_eq!(digests(&answer), digests(&all), "{status}");
    }
    let filtered = mirror.get(&format!("{path}?artifactType=application/x.signature")).await;
    assert_eq!(digests(&filtered), [artifacts[1].manifest.digest.to_string()]);
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
}

/// T22: what the tag stands for is no list of referrers, but the manifest itself (GitLab takes the tag for the digest), or
/// some other one.
#[tokio::test]
async fn t22_only_an_index_of_its_own_lists_referrers() {
    let image = Image::small(1);
    let index = Index::oci(vec![image.clone()]);
    let docker = Index::docker(vec![image.clone()]);
    for (subject, tagged) in
        [(&index.manifest, &index.manifest), (&index.manifest, &image.manifest), (&image.manifest, &docker.manifest)]
    {
        let up = Upstream::start().await;
        up.push_index(REPOSITORY, "latest", &index);
        up.push_index(REPOSITORY, "docker", &docker);
        up.tag(REPOSITORY, &subject.digest.to_string().replace(':', "-"), &tagged.digest);
        let mirror = Mirror::of(&up).await;
        for _ in 0..2 {
            assert_eq!(digests(&mirror.get(&referrers(subject)).await), [] as [String; 0], "{}", tagged.media_type);
        }
    }
}

/// T22: not a digest; an upstream that cannot be asked.
#[tokio::test]
async fn t22_referrers_that_cannot_be_known_are_an_error() {
    let (up, image, _) = with_artifacts().await;
    let mirror = Mirror::of(&up).await;
    let answer = mirror.get("/v2/library/alpine/referrers/latest").await;
    assert_eq!((answer.status(), &*answer.error_code()), (400, "DIGEST_INVALID"));
    up.down().await;
    let answer = mirror.get(&referrers(&image.manifest)).await;
    assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"));
}

/// A list is as old as the question for it: one whose answer took longer than `fresh_for` is asked for again.
#[tokio::test]
async fn referrers_are_as_fresh_as_their_question() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "500ms");
    })
    .await;
    let path = referrers(&image.manifest);
    let gate = up.gate_head(&format!("GET {path}"));
    let (first, ()) = tokio::join!(mirror.get(&path), async {
        gate.arrived(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        gate.open();
    });
    assert_eq!(digests(&first).len(), artifacts.len());
    let second = mirror.get(&path).await;
    assert_eq!((digests(&second), up.count(&format!("GET {path}"))), (digests(&first), 2));
}

/// What anybody may ask for without end takes no place without end: lists of what is not here, and of kinds that there are not.
#[tokio::test]
async fn made_up_questions_leave_nothing_behind() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::of(&up).await;
    let path = referrers(&image.manifest);
    for number in 0..20 {
        mirror.get(&referrers(&Blob::random(number, 10))).await;
        mirror.get(&format!("{path}?artifactType=made-up/{number}")).await;
    }
    let kept = || {
        let folder = mirror.files().root().join("repos/docker.io/library/alpine/_referrers");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    assert_eq!(kept(), 0);
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    // Of what is here, in repositories that there are not.
    for number in 0..20 {
        mirror.get(&path.replace("library/alpine", &format!("made/up-{number}"))).await;
    }
    assert!(!mirror.files().root().join("repos/docker.io/made").exists());
    for number in 0..20 {
        mirror.get(&format!("{path}?artifactType=made-up/{number}")).await;
    }
    assert_eq!(digests(&mirror.get(&path).await).len(), artifacts.len());
    assert!((1..=2).contains(&kept()), "{}", kept());
    // Of what is here the list is, too, without the upstream, and of each kind what the whole one says.
    up.down().await;
    let mirror = mirror.restart().await;
    for (filter, count) in [("", artifacts.len()), ("?artifactType=made-up/7", 0), ("?artifactType=never/asked-for", 0)] {
        let answer = mirror.get(&format!("{path}{filter}")).await;
        assert_eq!((answer.status(), digests(&answer).len()), (200, count), "{filter}");
    }
}

/// What was written down under a clock that was ahead is not fresh for years; nor is it refused in an outage.
#[tokio::test]
async fn what_was_checked_in_the_future_is_due_and_served_in_an_outage() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::of(&up).await;
    let (path, tag) = (referrers(&image.manifest), manifest_path(REPOSITORY, "latest"));
    mirror.pull(REPOSITORY, "latest", &image).await;
    mirror.get(&path).await;
    let repository = mirror.files().root().join("repos/docker.io/library/alpine");
    let records = ["_tags", "_referrers"].map(|folder| std::fs::read_dir(repository.join(folder)).unwrap().next().unwrap());
    let records = records.map(|entry| entry.unwrap().path());
    let restarted = mirror.restart_with(|_| {
        for record in &records {
            let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
            json["checked_at"] = 4_000_000_000_000_u64.into();
            std::fs::write(record, json.to_string()).unwrap();
        }
    });
    let mirror = restarted.await;
    for pattern in ["/v2/*/manifests/*", "/v2/*/referrers/*"] {
        up.on(pattern).always(Act::status(503));
    }
    for (path, asked) in [(&path, format!("GET {path}")), (&tag, format!("HEAD {tag}"))] {
        let before = up.count(&asked);
        let answer = mirror.get(path).await;
        assert_eq!((answer.status(), answer.header("warning").is_some()), (200, true), "{path}: {}", answer.text());
        assert!(up.count(&asked) > before, "{path} is due");
    }
    assert_eq!(digests(&mirror.get(&path).await).len(), artifacts.len());
}

/// Each combination of types is a list of its own, and anybody may ask for any: few of them are written down.
#[tokio::test]
async fn i8_lists_of_referrers_take_little_place_however_many_filters_are_tried() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::of(&up).await;
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    let path = referrers(&image.manifest);
    let sbom = [artifacts[0].manifest.digest.to_string()];
    for number in 0..40 {
        let answer = mirror.get(&format!("{path}?artifactType=application/x.sbom&artifactType=x/{number}")).await;
        assert_eq!(digests(&answer), sbom);
    }
    let folder = mirror.files().root().join("repos/docker.io/library/alpine/_referrers");
    let files: Vec<u64> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(files.len() <= 2 && files.iter().sum::<u64>() < 16 << 10, "{files:?}");
    // One question, in whatever order, and however often it says the same.
    let asked = up.count(&format!("GET {path}"));
    let again = mirror.get(&format!("{path}?artifactType=x/39&artifactType=application/x.sbom&artifactType=x/39")).await;
    assert_eq!((digests(&again), up.count(&format!("GET {path}"))), (sbom.to_vec(), asked));
    // The latest ones are there without the upstream.
    up.down().await;
    let mirror = mirror.restart().await;
    let last = mirror.get(&format!("{path}?artifactType=application/x.sbom&artifactType=x/39")).await;
    assert_eq!(digests(&last), sbom);
}

/// The whole list says what there is of each type: nobody makes the upstream say it for every combination.
#[tokio::test]
async fn t22_what_a_filter_leaves_of_a_fresh_list_is_not_asked_for() {
    let (up, image, artifacts) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::of(&up).await;
    let path = referrers(&image.manifest);
    mirror.get(&format!("{path}?artifactType=application/x.sbom")).await;
    assert_eq!(digests(&mirror.get(&path).await).len(), 2);
    for (filter, expected) in [("x.sbom", &artifacts[0]), ("x.signature", &artifacts[1])] {
        let answer = mirror.get(&format!("{path}?artifactType=application/{filter}")).await;
        assert_eq!(digests(&answer), [expected.manifest.digest.to_string()]);
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    }
    assert_eq!(up.count(&format!("GET {path}")), 2);
}
