//! The options of commands that ask a running mirror, and how its answer is shown.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::ConfigFile;
use super::endpoint::{Endpoint, Place, empty, token_from};
use super::papers::Papers;

/// For an answer. A purge of everything takes a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which mirror, and how to show its answer.
#[derive(Debug, Args)]
pub(super) struct Remote {
    #[command(flatten)]
    file: ConfigFile,

    /// The mirror's admin interface: IP:PORT, https://HOST:PORT or unix:PATH; by default admin.listen of the
    /// configuration
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Place>,

    /// A file with the token of the admin interface; by default the token of the configuration
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[command(flatten)]
    papers: Papers,

    /// Print JSON, even on a terminal. Output that is not to a terminal is always JSON
    #[arg(long)]
    json: bool,
}

impl Remote {
    /// Whether people read the output.
    pub fn is_for_people(&self) -> bool {
        use std::io::IsTerminal as _;
        !self.json && std::io::stdout().is_terminal()
    }

    /// Which configuration.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Asks the mirror, and gives its document. `parameters` without a value are left out.
    pub fn ask(&self, method: Method, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let endpoint = self.endpoint()?;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        let uri = format!("/api/v1/{path}?{}", query.finish());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, body) = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, whole(&endpoint, method, &uri)).await })
            .context("the mirror took too long to answer")??;
        let document: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{} gave status {status} and no JSON; is it a roadstead?", endpoint.place()))?;
        if !status.is_success() {
            bail!("{}", document["error"].as_str().unwrap_or("the mirror refused"));
        }
        Ok(document)
    }

    /// Whether an error of [`Remote::ask`] says that the mirror of the configuration does not run, or cannot be asked at all.
    /// Never of one that is named by its address: what the configuration says is not about it.
    pub fn is_down(&self, error: &anyhow::Error) -> bool {
        use std::io::{Error, ErrorKind};
        let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<Error>()).map(Error::kind);
        // A socket that is gone with its mirror is not found.
        let refused = kinds.into_iter().any(|kind| matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::NotFound));
        self.admin.is_none() && (refused || self.endpoint().is_err())
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let token = self.token_file.as_deref().map(token_from).transpose()?;
        // A mirror that is named here gets the token of a configuration that is named here, too, and of no other.
        if let (Some(place), None) = (&self.admin, &self.file.config) {
            return Ok(Endpoint::new(place.clone(), token, self.papers.clone()));
        }
        let admin = self.file.load()?.admin;
        let papers = self.papers.with(&admin);
        let place = match &self.admin {
            Some(place) => place.clone(),
            None => {
                let listen =
                    admin.listen.context("admin.listen is \"off\" in the configuration; name the mirror with --admin")?;
                Place::of(&listen, admin.tls.is_some())
                    .context("admin.listen is a socket of systemd; name the mirror with --admin")?
            }
        };
        Ok(Endpoint::new(place, token.or(admin.token), papers))
    }
}

async fn whole(endpoint: &Endpoint, method: Method, uri: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let answer = endpoint.ask(method, uri, empty()).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}
