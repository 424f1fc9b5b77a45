//! What a fill begins with, and what it leaves: the file in `ingest/`, and its place in the account.
//!
//! A file never leaves the account before it is gone (I8): whatever fails on the way, it belongs to a fill's reservation
//! or is a leftover. Called by the fills and by [`super::room`].

use std::io;

use super::Cache;
use super::index::{Class, Reservation};
use super::store::Ingest;
use super::verify::condemns;
use crate::oci::Digest;

impl Cache {
    /// Blocks, as long as hashing takes. Opens the file of a fill of `digest`, with what an earlier one left, and the
    /// reservation that has its bytes. A leftover that cannot be opened or read, for another reason than a lack of
    /// resources, is removed; if that fails, too, it goes on to count, and the fill begins beside it. After an error it
    /// counts as before. Not before the index is complete.
    pub fn resume(&self, digest: &Digest, class: Class) -> io::Result<(Ingest, Reservation)> {
        let mut reservation = {
            // Whoever was about to unlink it has done so by now, or will not.
            let _name = self.names.hold(digest);
            self.index.take_leftover(digest, class)
        };
        let error = match self.store.ingest(digest) {
            Ok(ingest) => return Ok((ingest, reservation)),
            Err(error) => error,
        };
        if !condemns(&error) && !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) {
            self.leave(digest, None, reservation);
            return Err(error);
        }
        tracing::warn!(%digest, %error, "what an earlier download left cannot be read; it is removed");
        if let Ok(ingest) = self.store.remove_ingest(digest).and_then(|()| self.store.ingest(digest)) {
            return Ok((ingest, reservation));
        }
        let nothing = reservation.split(0);
        self.leave(digest, None, reservation);
        Ok((self.store.ingest_whole(digest)?, nothing))
    }

    /// Blocks. Ends a fill that did not publish, and keeps its file for the next one, if there is anything in it; the
    /// reservation follows it. `ingest` is `None` if the task that had it is gone; then the file of that name is meant.
    pub fn leave(&self, digest: &Digest, ingest: Option<Ingest>, reservation: Reservation) {
        let len = self.filled(digest, ingest.as_ref());
        if len == 0 || !is_resumable(ingest.as_ref()) {
            return self.discard(digest, ingest, reservation);
        }
        let settled = match &ingest {
            Some(ingest) => ingest.settle(),
            None => self.store.trim_ingest(digest),
        };
        let most = len.max(reservation.bytes());
        reservation.left_over(*digest, settled.unwrap_or(most));
    }

    /// Blocks. As [`Cache::leave`], of a file that is of no use: it is removed, and what is reserved for it given back.
    pub fn discard(&self, digest: &Digest, ingest: Option<Ingest>, reservation: Reservation) {
        // The most that may be there, with the blocks that were set aside behind its end.
        let most = self.filled(digest, ingest.as_ref()).max(reservation.bytes());
        let removed = match &ingest {
            Some(ingest) => ingest.remove(),
            None => self.store.remove_ingest(digest),
        };
        match removed {
            // After the file.
            Ok(()) => drop(reservation),
            Err(_) if most == 0 => drop(reservation),
            Err(error) => {
                tracing::error!(%digest, %error, size_bytes = most, "what a download left cannot be removed; it counts on");
                match is_resumable(ingest.as_ref()) {
                    true => reservation.left_over(*digest, most),
                    false => reservation.lost(),
                }
            }
        }
    }

    /// Bytes in the file of a fill.
    fn filled(&self, digest: &Digest, ingest: Option<&Ingest>) -> u64 {
        match ingest {
            Some(ingest) => ingest.file().metadata().map_or(0, |meta| meta.len()),
            None => self.store.ingest_len(digest),
        }
    }

    /// Blocks. Counts what a fill left that ended in a panic, unless it is counted already. To be called while no other
    /// fill of `digest` can begin.
    pub fn recount(&self, digest: &Digest) {
        let _name = self.names.hold(digest);
        if self.is_scanned() && !self.index.has_leftover(digest) && self.store.has_ingest(digest) {
            let nothing = self.index.take_leftover(digest, 0);
            self.leave(digest, None, nothing);
        }
    }
}

/// Whether a later fill can find the file by its name.
fn is_resumable(ingest: Option<&Ingest>) -> bool {
    ingest.is_none_or(Ingest::is_resumable)
}
