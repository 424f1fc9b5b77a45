//! `upstream.*.credentials`, in each of their forms.

use std::path::PathBuf;

use url::Url;

use super::super::clouds::{self, EcrHost};
use super::super::raw::{self, CredentialsKind};
use super::super::reach::{Of, own_name};
use super::super::value::{HelperName, One};
use super::super::{Credentials, ScopedCredentials};
use super::{Builder, Secret};
use crate::oci::name::UpstreamName;

impl Builder<'_> {
    pub(super) fn credentials(&mut self, name: &UpstreamName, raw: raw::Credentials) -> Credentials {
        let path = ["upstream", name.as_str(), "credentials"];
        match raw {
            raw::Credentials::Kind(kind) => self.credentials_kind(&path, kind),
            raw::Credentials::Table(table) => self.credentials_table(&path, *table),
            raw::Credentials::List(tables) => self.credentials_list(&path, tables),
        }
    }

    fn credentials_kind(&mut self, path: &[&str], kind: CredentialsKind) -> Credentials {
        match kind {
            CredentialsKind::DockerConfig => match self.docker_config() {
                Some(file) => self.docker_credentials(path, file),
                None => {
                    let message = "neither DOCKER_CONFIG nor HOME is set; write { docker_config = \"PATH\" }";
                    self.document.problem(path, message);
                    Credentials::Anonymous
                }
            },
            CredentialsKind::Ecr => Credentials::Ecr,
            CredentialsKind::Gcp => Credentials::Gcp { key_file: None },
            CredentialsKind::Acr => Credentials::Acr,
        }
    }

    fn credentials_list(&mut self, path: &[&str], tables: Vec<raw::CredentialsTable>) -> Credentials {
        let mut list: Vec<ScopedCredentials> = Vec::new();
        for mut table in tables {
            let prefix = table.prefix.take().map_or_else(String::new, |One(prefix)| prefix.0);
            if list.iter().any(|entry| entry.prefix == prefix) {
                let which = if prefix.is_empty() { "no prefix".to_owned() } else { format!("the prefix {prefix:?}") };
                self.document.problem(path, format!("two entries have {which}; each needs one of its own"));
            }
            let credentials = self.credentials_table(path, table);
            list.push(ScopedCredentials { prefix, credentials });
        }
        Credentials::ByRepository(list)
    }

    /// No repository of Docker Hub begins with its name.
    pub(super) fn check_prefixes(&mut self, of: Of<'_>, credentials: &Credentials) {
        let Credentials::ByRepository(list) = credentials else { return };
        for ScopedCredentials { prefix, .. } in list {
            if let Some(rest) = own_name(prefix, of).filter(|_| of.name.is_docker_hub()) {
                let cure = if rest == "**" { "leave it out for all of them".to_owned() } else { format!("write {rest:?}") };
                let why = format!("it begins a repository of {}: {cure}", of.name);
                self.matches_nothing(&["upstream", of.name.as_str(), "credentials", "prefix"], prefix, &why);
            }
        }
    }

    fn credentials_table(&mut self, path: &[&str], table: raw::CredentialsTable) -> Credentials {
        // In a list the place of a key is that of the list.
        let at = |key: &'static str| -> Vec<&str> { path.iter().copied().chain([key]).collect() };
        if table.prefix.is_some() {
            let message = "prefix belongs into a list: credentials = [{ prefix = \"team\", … }, …]";
            self.document.problem(&at("prefix"), message);
        }
        let raw::CredentialsTable { username, password, password_file, docker_config, helper, source, key_file, .. } = table;
        let forms = [username.is_some(), docker_config.is_some(), helper.is_some(), source.is_some()];
        let extra = password.is_some() && password_file.is_some()
            || username.is_none() && (password.is_some() || password_file.is_some())
            || key_file.is_some() && source != Some(One(CredentialsKind::Gcp));
        if forms.into_iter().filter(|given| *given).count() == 1 && !extra {
            match (username, password, password_file, docker_config, helper, source) {
                (Some(username), Some(password), None, ..) => {
                    let username = self.secret(&at("username"), Secret::from_text(username.0, self.env));
                    let password = self.secret(&at("password"), Secret::from_text(password.0, self.env));
                    return Credentials::Password { username: username.expose().to_owned(), password };
                }
                (Some(username), None, Some(One(file)), ..) => {
                    let username = self.secret(&at("username"), Secret::from_text(username.0, self.env));
                    let password = self.secret(&at("password_file"), Secret::from_file(&file));
                    return Credentials::Password { username: username.expose().to_owned(), password };
                }
                (None, None, None, Some(One(file)), ..) => return self.docker_credentials(&at("docker_config"), file),
                (None, None, None, None, Some(One(HelperName(name))), _) => return Credentials::Helper(name),
                (None, None, None, None, None, Some(One(kind))) => {
                    let key_file = key_file.map(|One(file)| file);
                    if let Some(file) = &key_file
                        && let Err(error) = std::fs::File::open(file)
                    {
                        self.document.problem(&at("key_file"), format!("cannot read {}: {error}", file.display()));
                    }
                    return match self.credentials_kind(path, kind) {
                        Credentials::Gcp { .. } => Credentials::Gcp { key_file },
                        other => other,
                    };
                }
                _ => {}
            }
        }
        let message = "needs either username with one of password and password_file, or docker_config alone, or helper alone, or \
                       source (with key_file, for \"gcp\")";
        self.document.problem(path, message);
        Credentials::Anonymous
    }

    /// A cloud's token opens more than a registry: it may go to the registries of that cloud alone (I9).
    pub(super) fn check_cloud(&mut self, name: &UpstreamName, credentials: &Credentials, urls: &[Url]) {
        let (kind, fits): (_, fn(&str) -> bool) = match credentials {
            Credentials::ByRepository(list) => {
                return list.iter().for_each(|entry| self.check_cloud(name, &entry.credentials, urls));
            }
            Credentials::Ecr => {
                ("\"ecr\" is for https://ACCOUNT.dkr.ecr.REGION.amazonaws.com and https://public.ecr.aws", |host| {
                    EcrHost::parse(host).is_some()
                })
            }
            Credentials::Gcp { .. } => {
                ("\"gcp\" is for https://gcr.io, https://X.gcr.io and https://REGION-docker.pkg.dev", clouds::is_google)
            }
            Credentials::Acr => ("\"acr\" is for https://NAME.azurecr.io", clouds::is_acr),
            _ => return,
        };
        for url in urls {
            let plain = url.scheme() != "https" || url.port().is_some();
            if plain || !url.host_str().is_some_and(fits) {
                let message = format!("credentials = {kind}, and {url} is none of them: it would be given a token of your cloud");
                self.document.problem(&["upstream", name.as_str(), "credentials"], message);
            }
        }
    }

    /// The file that the Docker client uses (docker/cli: `DOCKER_CONFIG` is a folder).
    fn docker_config(&self) -> Option<PathBuf> {
        let set = |name| (self.env)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
        Some(folder.join("config.json"))
    }

    fn docker_credentials(&mut self, path: &[&str], file: PathBuf) -> Credentials {
        if let Err(error) = std::fs::File::open(&file) {
            self.document.problem(path, format!("cannot read {}: {error}", file.display()));
        }
        Credentials::DockerConfig(file)
    }
}
