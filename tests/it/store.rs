//! The store on a disk that nobody looks at: full, shared with others, rotting; and what operators can ask of it.

mod disk;
mod explained;
mod full;
mod read_only;
mod upkeep;

const REPOSITORY: &str = "library/alpine";
