//! Where tests make the disk fail. In the program every function here is empty.

#[cfg(not(test))]
pub use off::Faults;
#[cfg(test)]
pub use on::Faults;

#[cfg(not(test))]
mod off {
    use std::io;

    /// A disk that fails only by itself.
    #[derive(Clone, Debug, Default)]
    pub struct Faults(());

    impl Faults {
        /// Before a system call that changes or reads a file.
        #[inline]
        pub fn check(&self) -> io::Result<()> {
            Ok(())
        }

        /// Before a write of `len` bytes: how many of them get to the disk, and how it ends.
        #[inline]
        pub fn check_write(&self, _len: usize) -> Result<(), (usize, io::Error)> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod on {
    use std::collections::HashSet;
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::thread::{self, ThreadId};

    /// A disk that fails when a test says so.
    #[derive(Clone, Debug, Default)]
    pub struct Faults(Arc<Mutex<Plan>>);

    #[derive(Debug, Default)]
    struct Plan {
        /// Calls until the one that fails.
        after: Option<u32>,
        errno: i32,
        /// Every call after it fails, too: the process is as good as dead.
        for_ever: bool,
        /// It does not fail then, it panics.
        panics: bool,
        calls: u32,
        callers: HashSet<ThreadId>,
    }

    impl Faults {
        /// The call after `after` more ones fails.
        pub fn arm(&self, after: u32, errno: i32, for_ever: bool) {
            *self.0.lock().unwrap() = Plan { after: Some(after), errno, for_ever, ..Plan::default() };
        }

        /// The call after `after` more ones panics.
        pub fn arm_panic(&self, after: u32) {
            *self.0.lock().unwrap() = Plan { after: Some(after), panics: true, ..Plan::default() };
        }

        /// The threads that have called since it was armed.
        pub fn callers(&self) -> HashSet<ThreadId> {
            self.0.lock().unwrap().callers.clone()
        }

        /// Nothing fails any more; how many calls there were since it was armed.
        pub fn disarm(&self) -> u32 {
            std::mem::take(&mut *self.0.lock().unwrap()).calls
        }

        fn fail(&self) -> Option<io::Error> {
            let mut plan = self.0.lock().unwrap();
            plan.calls += 1;
            plan.callers.insert(thread::current().id());
            match plan.after {
                Some(0) if plan.panics => {
                    plan.after = None;
                    drop(plan);
                    panic!("played");
                }
                Some(0) => {
                    if !plan.for_ever {
                        plan.after = None;
                    }
                    Some(io::Error::from_raw_os_error(plan.errno))
                }
                Some(left) => {
                    plan.after = Some(left - 1);
                    None
                }
                None => None,
            }
        }

        /// Before a system call that changes or reads a file.
        pub fn check(&self) -> io::Result<()> {
            self.fail().map_or(Ok(()), Err)
        }

        /// Before a write of `len` bytes: half of them get to the disk, the write is torn.
        pub fn check_write(&self, len: usize) -> Result<(), (usize, io::Error)> {
            self.fail().map_or(Ok(()), |error| Err((len / 2, error)))
        }
    }
}
