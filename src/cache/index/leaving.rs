//! Files that are no objects or leftovers any more, and still on the disk: victims on their way out, and damaged files.
//!
//! Both count (I8). A victim may be taken back before it is unlinked, by whoever takes its name; a damaged file stays
//! condemned until it is gone, or another file has its name.

use super::state::Condemned;
use super::{Found, Index, Place, Victim};
use crate::cache::store::FileId;
use crate::oci::Digest;

impl Index {
    /// Whether a victim is still to be unlinked. If not, another file has its name, or a fill has it.
    pub fn is_leaving(&self, victim: &Victim) -> bool {
        self.lock().leaving.contains_key(&(victim.place, victim.digest))
    }

    /// A victim has been unlinked.
    pub fn left(&self, victim: Victim) {
        self.lock().leaving.remove(&(victim.place, victim.digest));
    }

    /// A victim could not be unlinked: it is still there and still counts. A leftover or damaged file is not chosen again
    /// before [`Index::retry`], so that what can be unlinked makes room.
    pub fn stuck(&self, victim: Victim) {
        if victim.place != Place::Blobs {
            self.lock().stuck.insert((victim.place, victim.digest));
        }
        self.stayed(victim);
    }

    /// What could not be unlinked is tried again from now on.
    pub fn retry(&self) {
        self.lock().stuck.clear();
    }

    /// A victim was not unlinked: it still counts, unless it was taken back meanwhile.
    pub fn stayed(&self, victim: Victim) {
        let mut state = self.lock();
        if state.leaving.remove(&(victim.place, victim.digest)).is_none() {
            return;
        }
        if victim.place == Place::Blobs {
            let Victim { size, used, since, stamp, .. } = victim;
            state.insert(&victim.digest, victim.class, Found { size, used, since, stamp, heat: None });
        } else {
            state.add_spare(victim.place, victim.digest, victim.size);
        }
    }

    /// A file under `blobs/` is damaged: it is no object any more, and counts until it is gone. Whether that is news.
    pub fn condemn(&self, digest: &Digest, size: u64, file: FileId) -> bool {
        let mut state = self.lock();
        if let Some(id) = state.objects.find(digest) {
            state.remove(id);
        }
        state.leaving.remove(&(Place::Blobs, *digest));
        state.condemned.insert(*digest, Condemned { size, file }).is_none()
    }

    /// Whether the file under this name is known to be damaged.
    pub fn is_condemned(&self, digest: &Digest) -> bool {
        self.lock().condemned.contains_key(digest)
    }

    /// The damaged files that are still under their names.
    pub fn condemned(&self) -> Vec<(Digest, FileId)> {
        self.lock().condemned.iter().map(|(digest, condemned)| (*digest, condemned.file)).collect()
    }

    /// A damaged file is not under its name any more. It is in quarantine, or is gone.
    pub fn set_apart(&self, digest: &Digest, in_quarantine: bool) {
        let mut state = self.lock();
        if let Some(Condemned { size, .. }) = state.condemned.remove(digest)
            && in_quarantine
        {
            state.add_spare(Place::Quarantine, *digest, size);
        }
    }
}
