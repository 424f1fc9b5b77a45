//! ECR and ECR Public, with every source of the credential chain played on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const ECR: &str = "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const ECR_HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// The registry: Basic `AWS:ecr-password`, blobs in S3.
async fn registry() -> Internet {
    let basic = format!("Basic {}", STANDARD.encode("AWS:ecr-password"));
    Internet::start(move |host, seen| match (host, authorization(seen)) {
        (ECR_HOST, Some(sent)) if sent == basic && seen.path().contains("/blobs/") => Reply::redirect(
            "https://prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com/data?X-Amz-Signature=presigned",
        ),
        (ECR_HOST, Some(sent)) if sent == basic => manifest_reply(),
        (ECR_HOST, _) => {
            Reply::challenge(&format!("Basic realm=\"https://{ECR_HOST}/\",service=\"ecr.amazonaws.com\"")).body("Not Authorized")
        }
        (_, None) => blob_reply(),
        // S3, to a request that is signed twice.
        (_, Some(_)) => {
            Reply::new(400).body("<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>")
        }
    })
    .await
}

/// AWS in one: ECR, STS, container credentials, IMDSv2. `access` is the key that ECR wants to see a signature of.
async fn aws(access: &'static str) -> Server {
    Server::start(move |seen| {
        let target = seen.header("x-amz-target").unwrap_or_default().to_owned();
        let keys = |id: &str| {
            format!(r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"{CANARY}","Token":"{CANARY}/session==","Expiration":"2026-01-01T00:00:00Z"}}"#)
        };
        match (seen.method.as_str(), seen.path()) {
            ("POST", "/") if target == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" => {
                let scope = authorization(seen).unwrap().split(", ").next().unwrap().to_owned();
                let id = scope.strip_prefix("AWS4-HMAC-SHA256 Credential=").unwrap();
                let parts: Vec<_> = id.split('/').collect();
                if parts[0] != access || parts[2..] != ["eu-west-1", "ecr", "aws4_request"] {
                    return Reply::new(400).body(format!(r#"{{"__type":"UnrecognizedClientException","message":"{CANARY}"}}"#));
                }
                assert_eq!(seen.body, "{}");
                assert_eq!(seen.header("content-type"), Some("application/x-amz-json-1.1"));
                let token = STANDARD.encode("AWS:ecr-password");
                Reply::new(200).header("content-type", "application/x-amz-json-1.1").body(format!(
                    r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1.9E9,"proxyEndpoint":"https://{ECR_HOST}"}}]}}"#
                ))
            }
            ("POST", "/") if seen.body.contains("Action=AssumeRoleWithWebIdentity") => {
                assert_eq!(authorization(seen), None, "not signed");
                assert!(seen.body.contains(&format!("WebIdentityToken={CANARY}-jwt&")) || seen.body.ends_with(&format!("WebIdentityToken={CANARY}-jwt")));
                assert!(seen.body.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fpuller"));
                sts("ASIAWEBIDENTITY", "AssumeRoleWithWebIdentity")
            }
            ("POST", "/") if seen.body.contains("Action=AssumeRole&") => {
                assert!(authorization(seen).unwrap().contains("/eu-west-1/sts/aws4_request"));
                sts("ASIAASSUMED", "AssumeRole")
            }
            ("GET", "/container") if authorization(seen) == Some("container-authorization") => Reply::new(200).body(keys("ASIACONTAINER")),
            ("PUT", "/latest/api/token") => {
                assert_eq!(seen.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
                Reply::new(200).body("imds-session==")
            }
            ("GET", path) if path.starts_with("/latest/") && seen.header("x-aws-ec2-metadata-token") != Some("imds-session==") => Reply::new(401),
            ("GET", "/latest/meta-data/iam/security-credentials/") => Reply::new(200).body("node-role"),
            ("GET", "/latest/meta-data/iam/security-credentials/node-role") => Reply::new(200).body(keys("ASIAINSTANCE")),
            _ => Reply::new(404),
        }
    })
    .await
}

fn sts(id: &str, action: &str) -> Reply {
    Reply::new(200).header("content-type", "text/xml").body(format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId>\
         <SecretAccessKey>{CANARY}</SecretAccessKey><SessionToken>{CANARY}&amp;/session==</SessionToken>\
         <Expiration>2026-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
    ))
}

/// Pulls with these variables besides the endpoints; what the AWS double was asked.
async fn pull_with(access: &'static str, variables: &[(&str, &str)]) -> (Server, Result<(), UpstreamError>) {
    let (internet, aws) = (registry().await, aws(access).await);
    let home = tempfile::tempdir().unwrap();
    let full = format!("{}container", aws.url);
    let mut all = vec![
        ("HOME", home.path().to_str().unwrap()),
        ("AWS_ENDPOINT_URL", aws.url.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url.as_str()),
    ];
    all.extend(variables.iter().map(|(name, value)| (*name, if *value == "FULL_URI" { full.as_str() } else { *value })));
    let upstream = internet.upstream(ECR, config::Credentials::Ecr, &all);
    let outcome = pull(&upstream, "team/app").await;
    assert_silent(&upstream, outcome.as_ref().err());
    internet.assert_heard_only_at(&[CANARY], &[]);
    internet.assert_heard_only_at(&["Basic"], &[ECR_HOST]);
    (aws, outcome)
}

const STATIC: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", CANARY)];

fn web_identity(folder: &tempfile::TempDir) -> String {
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{CANARY}-jwt\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

const ROLE: (&str, &str) = ("AWS_ROLE_ARN", "arn:aws:iam::1:role/puller");
const CONTAINER: [(&str, &str); 2] =
    [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "FULL_URI"), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-authorization")];

#[tokio::test]
async fn t42_the_chain_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let token = web_identity(&folder);
    let web = [ROLE, ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str())];
    let profile = folder.path().join("credentials");
    std::fs::write(&profile, format!("[default]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = {CANARY}\n")).unwrap();
    let profile = [("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().unwrap())];

    // Each source wins over all that come after it.
    let sources: [(&str, &[(&str, &str)]); 5] = [
        ("AKIAENV", &STATIC),
        ("ASIAWEBIDENTITY", &web),
        ("AKIAPROFILE", &profile),
        ("ASIACONTAINER", &CONTAINER),
        ("ASIAINSTANCE", &[]),
    ];
    for first in 0..sources.len() {
        let variables: Vec<_> = sources[first..].iter().flat_map(|(_, variables)| variables.iter().copied()).collect();
        let (aws, outcome) = pull_with(sources[first].0, &variables).await;
        outcome.unwrap_or_else(|error| panic!("{}: {error}", sources[first].0));
        let imds = aws.lines().iter().any(|line| line.contains("/latest/"));
        assert_eq!(imds, sources[first].0 == "ASIAINSTANCE", "the instance is asked only when nothing else is there");
    }
}

#[tokio::test]
async fn i9_a_source_that_fails_is_not_passed_over() {
    // A pod whose web identity is broken must not become its node.
    let (aws, outcome) = pull_with("ASIAINSTANCE", &[ROLE, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/does/not/exist")]).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("cannot read /does/not/exist"), "{error}");
    assert!(aws.seen().is_empty(), "nobody else is asked: {:?}", aws.lines());
    let (aws, outcome) = pull_with("ASIAINSTANCE", &[("AWS_EC2_METADATA_DISABLED", "true")]).await;
    assert!(outcome.unwrap_err().to_string().contains("AWS_EC2_METADATA_DISABLED"));
    assert!(aws.seen().is_empty());
}

#[tokio::test]
async fn roles_of_profiles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(
        &file,
        format!(
            "[profile puller]\nrole_arn = arn:aws:iam::1:role/puller\nsource_profile = base\n[profile base]\naws_access_key_id = AKIABASE\n\
             aws_secret_access_key = {CANARY}\n[profile ring]\nrole_arn = arn:x\nsource_profile = ring2\n[profile ring2]\nrole_arn = arn:x\n\
             source_profile = ring\n[profile sso]\nsso_session = x\n"
        ),
    )
    .unwrap();
    let file = ("AWS_CONFIG_FILE", file.to_str().unwrap());
    let (_, outcome) = pull_with("ASIAASSUMED", &[file, ("AWS_PROFILE", "puller")]).await;
    outcome.unwrap();
    for (profile, text) in [("ring", "a ring"), ("sso", "export-credentials"), ("none", "there is no profile \"none\"")] {
        let (_, outcome) = pull_with("x", &[file, ("AWS_PROFILE", profile)]).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn i9_errors_name_the_code_and_the_remedy_and_quote_nothing() {
    let (_, outcome) = pull_with("another key", &STATIC).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    let text = error.to_string();
    assert!(text.contains("UnrecognizedClientException") && text.contains("not valid (any more)"), "{text}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_made_up_for_and_told() {
    let internet = registry().await;
    let day = std::time::SystemTime::now() + Duration::from_secs(24 * 3600);
    let tomorrow = humantime::format_rfc3339_seconds(day).to_string()[..10].replace('-', "");
    let date = httpdate::fmt_http_date(day);
    let aws = Server::start(move |seen| {
        if !seen.header("x-amz-date").unwrap().starts_with(&tomorrow) {
            return Reply::new(400)
                .header("date", &date)
                .body(r#"{"__type":"InvalidSignatureException","message":"Signature expired"}"#);
        }
        let token = STANDARD.encode("AWS:ecr-password");
        Reply::new(200).body(format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#))
    })
    .await;
    let variables = [STATIC[0], STATIC[1], ("AWS_ENDPOINT_URL_ECR", aws.url.as_str())];
    pull(&internet.upstream(ECR, config::Credentials::Ecr, &variables), "team/app").await.unwrap();
    assert_eq!(aws.seen().len(), 2);

    // One that does not take it then, either, is told with the reason.
    let date = httpdate::fmt_http_date(day);
    let strict =
        Server::start(move |_| Reply::new(400).header("date", &date).body(r#"{"__type":"InvalidSignatureException"}"#)).await;
    let variables = [STATIC[0], STATIC[1], ("AWS_ENDPOINT_URL_ECR", strict.url.as_str())];
    let error = pull(&internet.upstream(ECR, config::Credentials::Ecr, &variables), "team/app").await.unwrap_err().to_string();
    assert!(error.contains("the clock of this machine is") && error.contains("behind"), "{error}");
    assert_eq!(strict.seen().len(), 2);
}

#[tokio::test]
async fn answers_that_are_none() {
    let internet = registry().await;
    for (body, text) in [
        ("<html>".to_owned(), "not the JSON"),
        (r#"{"authorizationData":[]}"#.to_owned(), "holds no token"),
        (r#"{"authorizationData":[{"authorizationToken":"%%%"}]}"#.to_owned(), "not base64"),
        (" ".repeat(10 << 20), "larger than"),
    ] {
        let aws = Server::start(move |_| Reply::new(200).body(body.clone())).await;
        let variables = [STATIC[0], STATIC[1], ("AWS_ENDPOINT_URL_ECR", aws.url.as_str())];
        let error = pull(&internet.upstream(ECR, config::Credentials::Ecr, &variables), "team/app").await.unwrap_err();
        assert!(error.class() == Class::Unavailable && error.to_string().contains(text), "{error}");
    }
    // Plain http to anywhere but this machine, and redirects.
    let variables = [STATIC[0], STATIC[1], ("AWS_ENDPOINT_URL_ECR", "http://ecr.example/")];
    let error = pull(&internet.upstream(ECR, config::Credentials::Ecr, &variables), "team/app").await.unwrap_err().to_string();
    assert!(error.contains("plain http"), "{error}");
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://attacker.example/creds"), CONTAINER[1]];
    let error = pull(&internet.upstream(ECR, config::Credentials::Ecr, &variables), "team/app").await.unwrap_err().to_string();
    assert!(error.contains("neither https nor"), "{error}");
}

/// ECR Public: a token for everybody, and HEAD of a blob is refused whoever asks.
async fn public() -> Internet {
    let account = format!("Basic {}", STANDARD.encode("AWS:public-password"));
    Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("public.ecr.aws", "/token/", None) => Reply::token("public-anonymous"),
        ("public.ecr.aws", "/token/", Some(sent)) if sent == account => Reply::token("public-user"),
        ("public.ecr.aws", _, Some("Bearer public-anonymous" | "Bearer public-user")) if seen.path().contains("/blobs/") => {
            assert_eq!(seen.method, "GET", "T36");
            Reply::redirect("https://d5l0dvt14r5h8.cloudfront.net/data?Signature=presigned")
        }
        ("public.ecr.aws", _, Some("Bearer public-anonymous" | "Bearer public-user")) => manifest_reply(),
        ("public.ecr.aws", ..) => {
            Reply::challenge(r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#)
        }
        (_, _, None) => blob_reply(),
        other => panic!("{other:?}"),
    })
    .await
}

#[tokio::test]
async fn t36_public_anonymous_and_signed_in() {
    let internet = public().await;
    let upstream = internet.upstream("https://public.ecr.aws", config::Credentials::Anonymous, &[]);
    pull(&upstream, "docker/library/alpine").await.unwrap();
    pull(&upstream, "nginx/nginx").await.unwrap();
    let tokens = || internet.at("public.ecr.aws").into_iter().filter(|seen| seen.path() == "/token/").collect::<Vec<_>>();
    assert_eq!(tokens().len(), 1, "the scope `aws` is for all repositories");
    assert_eq!(tokens()[0].query("scope"), ["aws"]);
    assert_eq!(
        upstream.blob_size(&repository("nginx/nginx"), &digest_of(BLOB.as_bytes())).await.unwrap(),
        Some(BLOB.len() as u64)
    );

    let aws = Server::start(|seen| {
        assert_eq!(seen.header("x-amz-target"), Some("SpencerFrontendService.GetAuthorizationToken"));
        assert!(authorization(seen).unwrap().contains("/us-east-1/ecr-public/aws4_request"), "one region for all");
        let token = STANDARD.encode("AWS:public-password");
        Reply::new(200).body(format!(r#"{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":1.9E9}}}}"#))
    })
    .await;
    let internet = public().await;
    let variables = [STATIC[0], STATIC[1], ("AWS_ENDPOINT_URL_ECR_PUBLIC", aws.url.as_str())];
    let upstream = internet.upstream("https://public.ecr.aws", config::Credentials::Ecr, &variables);
    pull(&upstream, "docker/library/alpine").await.unwrap();
    internet.assert_heard_only_at(&["public-password", "Bearer", CANARY], &["public.ecr.aws"]);
    assert!(internet.at("public.ecr.aws").iter().any(|seen| authorization(seen) == Some("Bearer public-user")));
    assert_silent(&upstream, None);
}

/// A registry that takes the last of its tokens alone, and says 403 to an older one; and to all for `team/forbidden`.
#[tokio::test]
async fn a_403_to_a_token_is_answered_by_a_new_one_once() {
    let issued = Arc::new(AtomicUsize::new(0));
    let fresh = Arc::new(AtomicUsize::new(1));
    let aws = Server::start({
        let issued = Arc::clone(&issued);
        move |_| {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            let token = STANDARD.encode(format!("AWS:{number}"));
            Reply::new(200).body(format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1.9E9}}]}}"#))
        }
    })
    .await;
    let internet = Internet::start({
        let fresh = Arc::clone(&fresh);
        move |_, seen| {
            let good = format!("Basic {}", STANDARD.encode(format!("AWS:{}", fresh.load(Ordering::SeqCst))));
            match authorization(seen) {
                None => Reply::challenge("Basic realm=\"ecr\""),
                Some(sent) if sent == good && !seen.path().contains("forbidden") => manifest_reply(),
                Some(_) => Reply::new(403).body("Your authorization token has expired. Reauthenticate and try again."),
            }
        }
    })
    .await;
    let variables: Vec<_> = STATIC.into_iter().chain([("AWS_ENDPOINT_URL", aws.url.as_str())]).collect();
    let upstream = Arc::new(internet.upstream(ECR, config::Credentials::Ecr, &variables));
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
    };
    resolve(&upstream).await.unwrap();
    // Not half of its life has gone, and it has expired.
    later().await;
    fresh.store(2, Ordering::SeqCst);
    let checks: Vec<_> = (0..5)
        .map(|_| {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move { resolve(&upstream).await })
        })
        .collect();
    for check in checks {
        check.await.unwrap().unwrap();
    }
    assert_eq!(issued.load(Ordering::SeqCst), 2, "one for all who were refused");

    // One that may not be read is not asked for again and again, and the others keep what they sign in with.
    fresh.store(3, Ordering::SeqCst);
    later().await;
    let asked = internet.at(ECR_HOST).len();
    let error = upstream.resolve(&repository("team/forbidden"), &tag("latest")).await.unwrap_err();
    assert_eq!((error.class(), internet.at(ECR_HOST).len() - asked), (Class::Denied, 2), "{error}");
    let error = upstream.resolve(&repository("team/forbidden"), &tag("latest")).await.unwrap_err();
    assert_eq!((error.class(), internet.at(ECR_HOST).len() - asked), (Class::Denied, 3), "this one is quite new: {error}");
    resolve(&upstream).await.unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 3);
}
