//! An error with its causes, as people read it.
//!
//! Errors here say in their own words what caused them, since most of them are logged or answered as they are, and give the
//! cause for who looks for its type; wrapped I/O errors do the same. Whoever tells a chain therefore leaves out what has been
//! said.

use std::error::Error;

/// The text of an error and of its causes, each told once.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Outer {
        what: String,
        source: io::Error,
    }

    #[test]
    fn a_cause_that_has_been_told_is_not_told_again() {
        let told = |what: &str| told(&Outer { what: what.to_owned(), source: io::Error::other("the disk is gone") });
        assert_eq!(told("cannot write"), "cannot write: the disk is gone");
        assert_eq!(told("cannot write: the disk is gone"), "cannot write: the disk is gone");
        assert_eq!(told("it failed (the disk is gone); try again"), "it failed (the disk is gone); try again");
    }
}
