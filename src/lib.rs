//! Roadstead, a pull-through caching mirror for container images.
//!
//! # The way of one pull
//!
//! Read from top to bottom. Each step hands the next one a value of a new type, so that none can be left out; nothing
//! below knows anything above.
//!
//! 1. [`listen`] binds and speaks TLS; [`server`] accepts a connection, within its limits, and hyper reads a request from it.
//! 2. [`oci::Route::parse`] turns the URL into one validated value: upstream, repository, tag or digest.
//! 3. [`policy::Session::identify`] finds out who asks, [`policy::Session::admit`] whether they may, and gives a
//!    [`policy::Permit`].
//! 4. [`pull::Pull::answer`] is the use case:
//!    - for whom it looks (`pull::visibility`): of what is not everybody's, an upstream says what the caller may see;
//!    - a tag is resolved to a digest (`pull::resolve`): from its record while it is fresh, else by one HEAD for all who ask;
//!    - [`cache::Cache::get`] looks the digest up: in memory, then on disk; of private content the repository has to hold it;
//!    - on a miss [`fill::Fills::join`] begins the one fill of that digest, or joins it ([`upstream::Upstream::blob`]
//!      brings the bytes, [`cache::Cache::publish_from`] gives the file its name once the digest has matched);
//!    - [`pull::respond`] makes status, headers and range of what was found.
//! 5. [`pull::body::Body`] streams memory, a file, or the growing file of a fill.
//! 6. [`server`] counts the request and logs it when the last byte has gone.
//!
//! # The vocabulary
//!
//! [`oci`] (names, digests, ranges, manifests), the types of [`config`], [`metrics`], [`clock`], [`causes`] (how an error is
//! told) and [`hop`] (what a request shares with the next mirror in a chain) are used by all and use only each other. The invariants I1 to I12,
//! cited where they are upheld, are in `docs/ARCHITECTURE.md`.
//!
//! # The program
//!
//! [`cli`] reads the command line, [`app`] builds a mirror from a configuration and takes it down again, [`admin`] shows
//! its health and figures and does what operators ask, [`telemetry`] writes its log. [`transfer`] brings images in and
//! out without a client: prefetch, and the bundles of a site without a connection.

pub mod admin;
pub mod app;
pub mod cache;
pub mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fill;
pub mod hop;
pub mod listen;
pub mod metrics;
pub mod oci;
pub mod policy;
pub mod pull;
pub mod server;
pub mod telemetry;
pub mod transfer;
pub mod upstream;
