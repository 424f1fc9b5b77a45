//! The commands' way to a running mirror: its admin interface.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::ConfigFile;
use super::admin::AdminAt;
use crate::config::Listen;

/// For an answer. A purge of everything takes a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which mirror, and how to show its answer.
#[derive(Debug, Args)]
pub(super) struct Remote {
    #[command(flatten)]
    file: ConfigFile,

    /// The admin address of the mirror; by default admin.listen of the configuration
    #[arg(long, value_name = "IP:PORT|unix:PATH", value_parser = super::serve::address)]
    admin: Option<Listen>,

    /// Print JSON, also on a terminal; it is printed anyway where the output is no terminal
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
        let listen = match &self.admin {
            Some(address) => address.clone(),
            None => self
                .file
                .load()?
                .admin
                .listen
                .context("admin.listen is \"off\" in the configuration; name the mirror with --admin")?,
        };
        let address = AdminAt::of(&listen).context("admin.listen is a socket of systemd; name the mirror with --admin")?;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        let uri = format!("/api/v1/{path}?{}", query.finish());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, body) = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, send(&address, method, &uri)).await })
            .context("the mirror took too long to answer")?
            .with_context(|| {
                format!("cannot reach a mirror's admin interface at {address}; is it running? (--admin, --config)")
            })?;
        let document: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{address} gave status {status} and no JSON; is it a roadstead?"))?;
        if !status.is_success() {
            bail!("{}", document["error"].as_str().unwrap_or("the mirror refused"));
        }
        Ok(document)
    }
}

async fn send(address: &AdminAt, method: Method, uri: &str) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let socket = address.connect().await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(uri).header(header::HOST, address.host()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}
