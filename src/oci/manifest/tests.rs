use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::oci::Algorithm;

fn digest(of: &str) -> Digest {
    Digest::of(Algorithm::Sha256, of.as_bytes())
}

fn descriptor(media_type: &str, of: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest(of), "size": of.len() })
}

/// An image manifest of `kind`, without its own `mediaType`.
fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", "config"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "one"), descriptor("application/vnd.oci.image.layer.v1.tar+zstd", "two")],
    })
}

fn index() -> Value {
    let mut arm = descriptor("application/vnd.oci.image.manifest.v1+json", "arm");
    arm["platform"] = json!({ "architecture": "arm64", "os": "linux", "variant": "v8", "os.features": ["x"] });
    json!({ "schemaVersion": 2, "manifests": [arm, descriptor("application/vnd.oci.image.manifest.v1+json", "amd")] })
}

fn with(mut document: Value, key: &str, value: impl Into<Value>) -> Value {
    document[key] = value.into();
    document
}

fn parse(document: &Value, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
    Manifest::parse(document.to_string().as_bytes(), content_type)
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn digests(descriptors: &[Descriptor]) -> Vec<Digest> {
    descriptors.iter().map(|descriptor| descriptor.digest).collect()
}

#[test]
fn every_kind_is_read() {
    for kind in [OCI_MANIFEST, DOCKER_MANIFEST] {
        let parsed = parse(&with(image(), "mediaType", kind), Some(kind)).unwrap();
        assert_eq!(parsed.media_type.as_str(), kind);
        assert_eq!(digests(&parsed.blobs), [digest("config"), digest("one"), digest("two")]);
        assert_eq!(parsed.blobs.iter().map(|blob| blob.size).collect::<Vec<_>>(), [6, 3, 3]);
        assert!(parsed.manifests.is_empty());
    }
    for kind in [OCI_INDEX, DOCKER_LIST] {
        let parsed = parse(&with(index(), "mediaType", kind), Some(kind)).unwrap();
        assert_eq!(parsed.media_type.as_str(), kind);
        assert_eq!(digests(&parsed.manifests), [digest("arm"), digest("amd")]);
        assert!(parsed.blobs.is_empty());
    }
    let artifact = json!({
        "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
        "artifactType": "application/vnd.example.sbom",
        "blobs": [descriptor("text/spdx", "sbom")],
        "subject": descriptor(OCI_MANIFEST, "subject"),
    });
    let parsed = parse(&artifact, Some("text/plain")).unwrap();
    assert_eq!((parsed.media_type, digests(&parsed.blobs)), (MediaType::OCI_ARTIFACT, vec![digest("sbom")]));
}

#[test]
fn the_type_comes_from_the_header_then_the_body_then_the_structure() {
    let own = with(image(), "mediaType", DOCKER_MANIFEST);
    for header in [
        None,
        Some(""),
        Some("application/octet-stream"),
        Some("binary/octet-stream"),
        Some("text/plain; charset=utf-8"),
        Some("application/json"),
        Some("what?"),
    ] {
        assert_eq!(parse(&own, header).unwrap().media_type, MediaType::DOCKER_MANIFEST, "{header:?}");
        assert_eq!(parse(&image(), header).unwrap().media_type, MediaType::OCI_MANIFEST, "{header:?}");
        assert_eq!(parse(&with(image(), "mediaType", ""), header).unwrap().media_type, MediaType::OCI_MANIFEST, "{header:?}");
        assert_eq!(parse(&index(), header).unwrap().media_type, MediaType::OCI_INDEX, "{header:?}");
        assert_eq!(parse(&json!({ "blobs": [] }), header).unwrap().media_type, MediaType::OCI_ARTIFACT, "{header:?}");
    }
    assert_eq!(parse(&image(), Some(DOCKER_MANIFEST)).unwrap().media_type, MediaType::DOCKER_MANIFEST);
    assert_eq!(
        parse(&own, Some("Application/Vnd.Docker.Distribution.Manifest.V2+JSON;a=b")).unwrap().media_type.as_str(),
        DOCKER_MANIFEST
    );
    // A kind unknown here is relayed under its own name.
    let unknown = "application/vnd.example.thing+json";
    assert_eq!(parse(&json!({ "thing": 1 }), Some(unknown)).unwrap().media_type.as_str(), unknown);
}

/// T13: two readers must not take one document for two things.
#[test]
fn t13_confusion_is_refused() {
    let (manifest, list) = (MediaType::OCI_MANIFEST, MediaType::DOCKER_LIST);
    let own = with(image(), "mediaType", OCI_MANIFEST);
    assert_eq!(parse(&own, Some(DOCKER_LIST)), Err(ManifestError::TypeMismatch { header: list, body: manifest.clone() }));
    assert!(matches!(parse(&own, Some(DOCKER_MANIFEST)), Err(ManifestError::TypeMismatch { .. })));
    assert!(matches!(parse(&own, Some("application/vnd.example.thing+json")), Err(ManifestError::TypeMismatch { .. })));

    for (one, other) in
        [("manifests", "config"), ("manifests", "layers"), ("manifests", "fsLayers"), ("manifests", "blobs"), ("layers", "blobs")]
    {
        for value in [json!([]), json!(null)] {
            for header in [None, Some(OCI_INDEX), Some(OCI_MANIFEST)] {
                let both = json!({ one: [], other: value });
                assert_eq!(parse(&both, header), Err(ManifestError::Ambiguous(one, other)), "{both}");
            }
        }
    }
    assert_eq!(parse(&with(image(), "fsLayers", json!([])), None), Err(ManifestError::Ambiguous("layers", "fsLayers")));

    // What it says it is, it must be.
    assert_eq!(parse(&index(), Some(OCI_MANIFEST)), Err(ManifestError::Unexpected(manifest.clone(), "manifests")));
    assert_eq!(parse(&image(), Some(OCI_INDEX)), Err(ManifestError::Missing(MediaType::OCI_INDEX, "manifests")));
    assert_eq!(parse(&with(image(), "config", Value::Null), None), Err(ManifestError::Missing(manifest.clone(), "config")));
    assert_eq!(parse(&json!({ "layers": [] }), None), Err(ManifestError::Missing(manifest, "config")));
    let artifact = Some("application/vnd.oci.artifact.manifest.v1+json");
    assert_eq!(parse(&image(), artifact), Err(ManifestError::Unexpected(MediaType::OCI_ARTIFACT, "layers")));
}

/// Go's decoder, in every client, ignores the case of keys and takes the last of two.
#[test]
fn t13_keys_that_only_some_readers_see_are_refused() {
    for (key, known) in [
        ("Manifests", "manifests"),
        ("MANIFESTS", "manifests"),
        ("manife\u{17f}ts", "manifests"),
        ("laYers", "layers"),
        ("MediaType", "mediaType"),
        ("fslayers", "fsLayers"),
        ("Config", "config"),
        ("Subject", "subject"),
    ] {
        let document = with(image(), key, json!([]));
        assert_eq!(parse(&document, Some(OCI_MANIFEST)), Err(ManifestError::Spelling(known)), "{key}");
    }
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(matches!(Manifest::parse(twice, None), Err(ManifestError::Json { .. })));
    let twice = br#"{"mediaType":"application/vnd.oci.image.index.v1+json","mediaType":"","manifests":[]}"#;
    assert!(matches!(Manifest::parse(twice, None), Err(ManifestError::Json { .. })));
    let escaped = br#"{"manifests":[],"\u006cayers":[]}"#;
    assert_eq!(Manifest::parse(escaped, None), Err(ManifestError::Ambiguous("manifests", "layers")));
}

#[test]
fn schema_1_is_refused() {
    let schema1 =
        json!({ "schemaVersion": 1, "name": "library/alpine", "fsLayers": [{ "blobSum": digest("one") }], "history": [] });
    for header in [
        None,
        Some("text/plain"),
        Some("application/vnd.docker.distribution.manifest.v1+json"),
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ] {
        assert_eq!(parse(&schema1, header), Err(ManifestError::Schema1), "{header:?}");
    }
    let odd = json!({ "schemaVersion": 1, "layers": [], "config": descriptor("a/b", "config") });
    assert_eq!(parse(&odd, None), Err(ManifestError::Schema1));
    let own = with(json!({ "schemaVersion": 1 }), "mediaType", "application/vnd.docker.distribution.manifest.v1+json");
    assert_eq!(parse(&own, None), Err(ManifestError::Schema1));
}

#[test]
fn what_is_no_manifest_is_refused() {
    let html = || "text/html".parse().unwrap();
    assert_eq!(Manifest::parse(b"<html>", Some("text/html; charset=utf-8")), Err(ManifestError::NoManifestType(html())));
    for bytes in [&b""[..], b"<html>", b"[]", b"5", b"null", b"{", b"{}x", b"{} {}", b"\xef\xbb\xbf{}", b"{\"a\xff\":1}", b"\0"] {
        assert!(matches!(Manifest::parse(bytes, None), Err(ManifestError::Json { .. })), "{bytes:?}");
        assert!(matches!(Manifest::parse(bytes, Some(OCI_INDEX)), Err(ManifestError::Json { .. })), "{bytes:?}");
    }
    for document in [json!({}), json!({ "schemaVersion": 2 })] {
        assert_eq!(parse(&document, None), Err(ManifestError::Untyped), "{document}");
        for (kind, part) in
            [(OCI_INDEX, "manifests"), (DOCKER_LIST, "manifests"), (OCI_MANIFEST, "config"), (DOCKER_MANIFEST, "config")]
        {
            assert_eq!(parse(&document, Some(kind)), Err(ManifestError::Missing(kind.parse().unwrap(), part)), "{document}");
        }
    }
}

#[test]
fn an_error_body_with_status_200_is_no_manifest() {
    let error = json!({ "errors": [{ "code": "UNKNOWN" }] });
    let unknown = "application/vnd.example.thing+json";
    for header in
        [None, Some(OCI_INDEX), Some(OCI_MANIFEST), Some("application/vnd.oci.artifact.manifest.v1+json"), Some(unknown)]
    {
        assert_eq!(parse(&error, header), Err(ManifestError::ErrorBody), "{header:?}");
        assert!(parse(&with(error.clone(), "mediaType", OCI_INDEX), header).is_err(), "{header:?}");
    }
    assert!(parse(&with(image(), "errors", json!([])), None).is_ok());
}

/// What a manifest says of itself becomes a header, which browsers believe.
#[test]
fn a_stated_type_is_one_of_a_manifest() {
    for bad in ["no type", "a/b/c", "application/", "application/x\r\nX-Evil: 1", "application/é", "*/*", " "] {
        for header in [None, Some(OCI_MANIFEST)] {
            assert_eq!(parse(&with(image(), "mediaType", bad), header), Err(ManifestError::MediaType), "{bad:?}");
        }
    }
    for bad in ["text/html", "text/plain", "application/octet-stream", "application/json", "image/svg+xml"] {
        let own = with(image(), "mediaType", bad);
        assert_eq!(parse(&own, None), Err(ManifestError::NoManifestType(bad.parse().unwrap())));
        assert!(matches!(parse(&own, Some(OCI_MANIFEST)), Err(ManifestError::TypeMismatch { .. })), "{bad}");
    }
    for kind in [json!(5), json!([]), json!({})] {
        assert!(matches!(parse(&with(image(), "mediaType", kind), Some(OCI_MANIFEST)), Err(ManifestError::Json { .. })));
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Manifest::parse(format!("{{\"manifests\":[],\"x\":{deep}}}").as_bytes(), None).is_ok());
    for document in [format!("{{\"manifests\":{deep}}}"), format!("{{\"manifests\":[],\"schemaVersion\":{deep}}}"), deep] {
        assert!(matches!(Manifest::parse(document.as_bytes(), None), Err(ManifestError::Json { .. })));
    }
}

/// CVE-2024-3727: a digest in a manifest becomes a path and a URL.
#[test]
fn descriptors_are_checked() {
    let valid = descriptor("a/b", "one");
    for (key, value) in [
        ("digest", json!("sha256:../../../etc/passwd")),
        ("digest", json!("sha256:00")),
        ("digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
        ("digest", json!(5)),
        ("digest", json!(null)),
        ("size", json!(-1)),
        ("size", json!(1.5)),
        ("size", json!("1")),
        ("size", json!(null)),
    ] {
        let document = json!({ "manifests": [with(valid.clone(), key, value)] });
        assert!(matches!(parse(&document, None), Err(ManifestError::Json { .. })), "{document}");
    }
    for key in ["digest", "size"] {
        let mut lacking = valid.clone();
        lacking.as_object_mut().unwrap().remove(key);
        assert!(matches!(parse(&json!({ "manifests": [lacking] }), None), Err(ManifestError::Json { .. })), "{key}");
    }
    // Serde alone would take it.
    let array = json!([digest("one"), 3]);
    let image = |config: &Value, layer: &Value| json!({ "config": config, "layers": [layer] });
    for document in [
        json!({ "manifests": [array] }),
        json!({ "blobs": [array] }),
        image(&array, &valid),
        image(&valid, &array),
        with(image(&valid, &valid), "subject", array.clone()),
    ] {
        assert!(matches!(parse(&document, None), Err(ManifestError::Json { .. })), "{document}");
    }
    assert!(parse(&image(&valid, &valid), None).is_ok());
    let twice = format!(r#"{{"manifests":[{{"digest":"{}","digest":"{}","size":1}}]}}"#, digest("one"), digest("two"));
    assert!(matches!(Manifest::parse(twice.as_bytes(), None), Err(ManifestError::Json { .. })));
    let sha512 = with(valid.clone(), "digest", Digest::of(Algorithm::Sha512, b"x").to_string());
    assert_eq!(parse(&json!({ "manifests": [sha512] }), None).unwrap().manifests[0].digest.algorithm(), Algorithm::Sha512);
    // What does not matter to the mirror does not fail a pull.
    for media_type in [json!(null), json!(""), json!("no type"), json!(5)] {
        let odd = with(with(valid.clone(), "mediaType", media_type), "annotations", json!({ "a": [1], "b": "c" }));
        assert_eq!(digests(&parse(&json!({ "manifests": [odd] }), None).unwrap().manifests), [digest("one")]);
    }
}

#[test]
fn go_writes_empty_lists_as_null() {
    let parsed = parse(&with(image(), "layers", Value::Null), None).unwrap();
    assert_eq!((parsed.media_type, parsed.blobs.len()), (MediaType::OCI_MANIFEST, 1));
    assert_eq!(parse(&json!({ "manifests": null }), None).unwrap().media_type, MediaType::OCI_INDEX);
    let nulls = json!({ "manifests": [], "subject": null, "annotations": null, "artifactType": null, "mediaType": null });
    assert_eq!(parse(&nulls, None).unwrap().media_type, MediaType::OCI_INDEX);
}

#[test]
fn an_error_repeats_nothing_of_the_document() {
    let secret = "s3cr3t".repeat(1 << 18);
    for document in [
        json!({ "mediaType": secret }),
        json!({ "mediaType": [secret] }),
        json!({ "manifests": secret }),
        json!({ "manifests": [{ "digest": secret }] }),
        json!({ "manifests": [{ "digest": digest("x"), "size": secret }] }),
        json!({ (format!("manife\u{17f}ts{secret}")): 1 }),
        json!({ "config": { secret.clone(): secret } }),
    ] {
        for header in [None, Some(OCI_INDEX)] {
            let message = parse(&document, header).unwrap_err().to_string();
            assert!(message.len() < 300 && !message.contains("s3cr3t"), "{}", &message[..200]);
        }
    }
    let broken = format!("{{\"{secret}\": {secret}");
    let message = Manifest::parse(broken.as_bytes(), None).unwrap_err().to_string();
    assert!(message.starts_with("it is not a manifest: it is not JSON at line 1, column "), "{}", &message[..100]);
}

/// Any JSON, with the keys and values that matter more often than chance would have them.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        8 => prop::sample::select(vec![
            "mediaType", "manifests", "config", "layers", "fsLayers", "blobs", "subject", "digest", "size", "platform", "annotations",
            "artifactType", "schemaVersion", "urls", "Layers",
        ]).prop_map(String::from),
        1 => ".{0,5}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,5}".prop_map(Value::from),
        prop::sample::select(vec![OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]).prop_map(Value::from),
        "[a-z]{0,2}".prop_map(|of| descriptor(OCI_MANIFEST, &of)),
        "[a-z]{0,2}".prop_map(|of| json!([descriptor(OCI_MANIFEST, &of)])),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::vec((key.clone(), inner), 0..5).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), header in prop::option::of(".{0,20}")) {
        let _ = Manifest::parse(&bytes, header.as_deref());
    }

    /// Whatever is accepted is one thing only, and what it was said to be.
    #[test]
    fn any_json_is_read_as_one_thing_or_refused(
        document in any_json(),
        header in prop::option::of(prop::sample::select(vec![OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "text/plain", "a/b"])),
    ) {
        if let Ok(parsed) = parse(&document, header) {
            prop_assert!(!parsed.media_type.is_vague() && !parsed.media_type.is_schema1());
            if let Some(header) = header.filter(|header| *header != "text/plain") {
                prop_assert_eq!(parsed.media_type.as_str(), header);
            }
            if let Some(own) = document["mediaType"].as_str().filter(|own| !own.is_empty()) {
                prop_assert_eq!(parsed.media_type.as_str(), own);
            }
            prop_assert!(parsed.manifests.is_empty() || parsed.blobs.is_empty());
            prop_assert!(!parsed.media_type.is_index() || document.get("manifests").is_some());
            prop_assert!(!parsed.media_type.is_image() || (!parsed.blobs.is_empty() && document.get("manifests").is_none()));
        }
    }

    /// A valid manifest with one byte changed, or cut off.
    #[test]
    fn a_damaged_manifest_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(), list in any::<bool>()) {
        let mut bytes = if list { index() } else { image() }.to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let parsed = Manifest::parse(&bytes, None);
        prop_assert!(!cut || parsed.is_err());
    }
}

/// Registries refuse a manifest that names a config or layer that is not there; they let much else pass.
#[test]
fn a_manifest_owns_what_its_registry_must_have() {
    let owned = |manifest: &Value, kind: &str| {
        let parsed = parse(manifest, Some(kind)).unwrap();
        parsed.blobs.iter().map(|blob| parsed.owns(blob)).collect::<Vec<_>>()
    };
    assert_eq!(owned(&image(), OCI_MANIFEST), [true; 3]);
    assert_eq!(owned(&image(), DOCKER_MANIFEST), [true; 3]);
    assert_eq!(owned(&image(), "application/vnd.example.thing+json"), [false; 3], "what it is checked for is not known");
    for (key, value, own) in [
        ("urls", json!(["https://x.example/layer"]), false),
        ("urls", json!("https://x.example/layer"), false),
        ("urls", json!([]), true),
        ("urls", json!(null), true),
        ("URLs", json!(["https://x.example/layer"]), false),
        ("url\u{17f}", json!(["https://x.example/layer"]), false),
        ("mediaType", json!("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"), false),
        ("mediaType", json!("application/vnd.docker.image.rootfs.Foreign.diff.tar.gzip"), false),
        ("mediaType", json!(null), true),
        ("mediaType", json!(1), false),
        ("MediaType", json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), false),
        ("Digest", json!(digest("another")), false),
        ("annotations", json!({ "urls": ["https://x.example/layer"] }), true),
        ("artifactType", json!("application/vnd.example.foreign"), true),
    ] {
        let mut manifest = image();
        manifest["layers"][1][key] = value.clone();
        assert_eq!(owned(&manifest, OCI_MANIFEST), [true, true, own], "{key} {value}");
        let mut manifest = image();
        manifest["config"][key] = value.clone();
        assert_eq!(owned(&manifest, OCI_MANIFEST), [own, true, true], "{key} {value}");
    }
    for twice in [r#""digest": "sha256:0", "#, r#""size": 7, "#] {
        let text = image().to_string().replacen("\"mediaType\"", &format!("{twice}\"mediaType\""), 1);
        assert!(matches!(Manifest::parse(text.as_bytes(), Some(OCI_MANIFEST)), Err(ManifestError::Json { .. })), "{text}");
    }
}
