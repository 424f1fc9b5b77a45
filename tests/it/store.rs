//! The store on a disk that nobody looks at: full, shared with others, rotting; and what operators can ask of it.

mod explained;
mod full;
mod upkeep;

const REPOSITORY: &str = "library/alpine";
