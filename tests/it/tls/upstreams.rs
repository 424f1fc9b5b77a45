//! Upstreams that want to know who the mirror is, by a certificate.

use super::authority::{Authority, Folder};
use super::{Mirror, REPOSITORY};
use crate::support::image::Builder;
use crate::support::mirror::Settings;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

/// Roots in a file, and the client certificate of the mirror if it is to have one.
fn papers<'a>(folder: &'a Folder, ups: &[&Upstream], shown: bool) -> impl FnOnce(&mut Settings) + use<'a> {
    let roots: String = ups.iter().map(|up| up.root()).collect();
    std::fs::write(folder.path("roots.pem"), roots).unwrap();
    move |settings| {
        let path = |name: &str| folder.path(name).to_str().unwrap().to_owned();
        settings.hub("ca", path("roots.pem"));
        if shown {
            settings.hub("client_cert", path("mirror.crt")).hub("client_key", path("mirror.key"));
        }
    }
}

#[tokio::test]
async fn i9_a_client_certificate_is_for_the_upstream_alone() {
    let (clients, folder) = (Authority::new("clients"), Folder::new());
    folder.write("mirror", &clients.client("mirror"));
    let up = Upstream::start_tls_for(&clients.pem()).await;
    // Two places that a redirect leads to; one of them would like to know who comes.
    let (open, curious) = (Upstream::start_tls().await, Upstream::start_tls_for(&clients.pem()).await);
    let image = Builder::new(1).layer(1000).layer(2000).build();
    up.push_image(REPOSITORY, "latest", &image);
    let ups = [&up, &open, &curious];
    for cdn in [&open, &curious] {
        image.layers.iter().for_each(|layer| cdn.push_blob(REPOSITORY, layer));
    }

    let nobody = Mirror::with(&up, papers(&folder, &ups, false)).await;
    let answer = nobody.get(&manifest_path(REPOSITORY, "latest")).await;
    assert_eq!((answer.status(), up.count("*")), (503, 0), "{}", answer.text());
    assert!(answer.text().contains("client_cert"), "says what to do: {}", answer.text());

    let mirror = Mirror::with(&up, papers(&folder, &ups, true)).await;
    assert_eq!(mirror.get(&manifest_path(REPOSITORY, "latest")).await.status(), 200);
    let paths = [0, 1].map(|number| blob_path(REPOSITORY, &image.layers[number]));
    up.on(&paths[0]).always(Act::location(307, &format!("{}{}", open.url(), paths[0])));
    up.on(&paths[1]).always(Act::location(307, &format!("{}{}", curious.url(), paths[1])));
    mirror.pull_blob(REPOSITORY, &image.layers[0]).await;
    assert_eq!(mirror.get(&paths[1]).await.status(), 503);
    assert_eq!((open.count("*"), curious.count("*")), (1, 0), "it is shown to nobody else");
}

/// A certificate runs out sooner than the mirror stops: the files of the new one are read without a change of the configuration.
#[tokio::test]
async fn a_renewed_client_certificate_is_shown_after_sighup() {
    let (clients, others, folder) = (Authority::new("clients"), Authority::new("others"), Folder::new());
    folder.write("mirror", &others.client("mirror"));
    let up = Upstream::start_tls_for(&clients.pem()).await;
    let image = Builder::new(1).layer(1000).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mut mirror = Mirror::with(&up, papers(&folder, &[&up], true)).await;
    let path = manifest_path(REPOSITORY, "latest");
    assert_eq!((mirror.get(&path).await.status(), up.count("*")), (503, 0), "another authority's");

    folder.write("mirror", &clients.client("mirror"));
    mirror.reload(|_| {}).await.unwrap();
    assert_eq!(&*mirror.get(&path).await.body, &*image.manifest.bytes);
}
