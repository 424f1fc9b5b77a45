//! On whose account an address is asked, and what it says to each: silences after a 429 ([`super::holdback`]), quotas.
//!
//! A registry counts a login's requests against that login, and those without one against the network address they come
//! from; so does its token service. Where a redirect leads no login goes along, and whoever is led there comes from the same
//! network address: that is one silence for all. Callers can make up logins, so the number of theirs is bounded: of many
//! that are held back at one time the rest is treated as one, because so many 429s mean this machine and no login. Pure;
//! used by [`super::health`].

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Verdict;
use super::holdback::Holdback;
use super::quota::Quota;
use super::traffic::Traffic;

/// Accounts that have a silence of their own; of callers' beyond that there is one for all.
const MOST: usize = 256;

/// Who a request is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// Nobody: no login goes along, or may.
    Anonymous,
    /// One of the mirror's own credentials, by its place among them.
    Own(usize),
    /// A caller's login, by a hash under a key of this process; never the login (I9).
    Guest(u64),
}

/// Where a request came to its end, and who it was made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedAt {
    /// At the upstream itself, or at the token service that it needs.
    Home(Account),
    /// Where a redirect has led away from it.
    Elsewhere,
}

/// The silences of one account, or place, by [`Traffic`].
type Holds = [Holdback; 3];

#[derive(Debug, Default)]
struct Standing {
    holds: Holds,
    quota: Option<Told>,
}

/// A quota, and when the address told it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) quota: Quota,
    pub(super) at: Instant,
}

impl Told {
    /// After a whole window the figure means nothing any more.
    pub(super) fn is_outdated(&self, now: Instant) -> bool {
        self.quota.window.is_some_and(|window| now.saturating_duration_since(self.at) >= window)
    }
}

/// The accounts of one address, as far as something is known of them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    known: HashMap<Account, Standing>,
    others: Holds,
    elsewhere: Holds,
}

/// A request that was let through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    /// Who it is made as.
    account: Account,
    /// What it is.
    pub(super) traffic: Traffic,
    /// It is to end the silence of its account, or to make it longer.
    home: bool,
    /// The same of the silence where it may be led.
    elsewhere: bool,
}

impl Admission {
    pub(super) fn is_probe(self) -> bool {
        self.home || self.elsewhere
    }
}

/// A silence that a request would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    pub(super) until: Instant,
    /// It is over in a moment, and then for everybody.
    pub(super) brief: bool,
}

impl Accounts {
    /// `Go` or `Probe`, or the silence that is to be kept.
    pub(super) fn peek(&self, now: Instant, account: Account, traffic: Traffic) -> Result<Verdict, Silence> {
        let mut verdict = Verdict::Go;
        for hold in self.home(account).into_iter().chain([&self.elsewhere]).map(|holds| &holds[traffic as usize]) {
            match hold.peek(now) {
                Verdict::Not(until) => return Err(Silence { until, brief: hold.is_brief() }),
                Verdict::Probe => verdict = Verdict::Probe,
                Verdict::Go => {}
            }
        }
        Ok(verdict)
    }

    /// Takes the probes of a request that is sent, of which [`Self::peek`] has said that it may be.
    pub(super) fn admit(&mut self, now: Instant, account: Account, traffic: Traffic) -> Admission {
        let take = |holds: Option<&mut Holds>| holds.is_some_and(|holds| holds[traffic as usize].admit(now) == Verdict::Probe);
        Admission { account, traffic, home: take(self.home_mut(account)), elsewhere: take(Some(&mut self.elsewhere)) }
    }

    /// A request came to its end `at` somebody who said 429.
    pub(super) fn throttled(&mut self, now: Instant, admission: Admission, at: EndedAt, told: Option<Duration>, jitter: f64) {
        let Admission { account, traffic, home, elsewhere } = admission;
        let probe = match at {
            EndedAt::Elsewhere => elsewhere,
            EndedAt::Home(told) => home && told == account,
        };
        // What came before the 429 had an answer: the bare request that asked how to sign in, or the redirect.
        if at != EndedAt::Home(account) {
            self.home_answered(now, admission);
        }
        if at != EndedAt::Elsewhere && elsewhere {
            self.elsewhere[traffic as usize].abandon(now);
        }
        let holds = self.begin(now, at);
        holds[traffic as usize].throttled(now, told, probe, jitter);
        if traffic == Traffic::Check {
            // Registries do not count HEADs, so this is the general limit, which holds for GETs, too.
            holds[Traffic::Pull as usize].throttled(now, told, false, jitter);
        }
    }

    /// A request had an answer that is no 429.
    pub(super) fn answered(&mut self, now: Instant, admission: Admission) {
        self.home_answered(now, admission);
        self.elsewhere[admission.traffic as usize].answered(now, admission.elsewhere);
    }

    fn home_answered(&mut self, now: Instant, Admission { account, traffic, home, .. }: Admission) {
        if let Some(holds) = self.home_mut(account) {
            holds[traffic as usize].answered(now, home);
        }
    }

    /// A request was given up; the next one has its probes.
    pub(super) fn abandon(&mut self, now: Instant, Admission { account, traffic, home, elsewhere }: Admission) {
        if home && let Some(holds) = self.home_mut(account) {
            holds[traffic as usize].abandon(now);
        }
        if elsewhere {
            self.elsewhere[traffic as usize].abandon(now);
        }
    }

    /// The longest silence that the mirror itself keeps; callers' are theirs.
    pub(super) fn held(&self, now: Instant, traffic: Traffic) -> Option<Duration> {
        let held = |holds: &Holds| match holds[traffic as usize].peek(now) {
            Verdict::Go => None,
            Verdict::Probe => Some(Duration::ZERO),
            Verdict::Not(until) => Some(until - now),
        };
        self.own().map(|standing| &standing.holds).chain([&self.elsewhere]).filter_map(held).max()
    }

    /// An account of the mirror was told its quota. A caller's is their business.
    pub(super) fn told(&mut self, now: Instant, account: Account, quota: Quota) {
        if !matches!(account, Account::Guest(_)) {
            self.known.entry(account).or_default().quota = Some(Told { quota, at: now });
        }
    }

    /// The quotas of the mirror's accounts.
    pub(super) fn quotas(&self) -> impl Iterator<Item = &Told> {
        self.own().filter_map(|standing| standing.quota.as_ref())
    }

    fn own(&self) -> impl Iterator<Item = &Standing> {
        self.known.iter().filter(|(account, _)| !matches!(account, Account::Guest(_))).map(|(_, standing)| standing)
    }

    fn is_crowded(&self, account: Account) -> bool {
        matches!(account, Account::Guest(_)) && self.known.len() >= MOST
    }

    fn home(&self, account: Account) -> Option<&Holds> {
        let crowd = self.is_crowded(account).then_some(&self.others);
        self.known.get(&account).map(|standing| &standing.holds).or(crowd)
    }

    fn home_mut(&mut self, account: Account) -> Option<&mut Holds> {
        let crowded = self.is_crowded(account);
        self.known.get_mut(&account).map(|standing| &mut standing.holds).or(crowded.then_some(&mut self.others))
    }

    /// Where to note a silence that begins.
    fn begin(&mut self, now: Instant, at: EndedAt) -> &mut Holds {
        let EndedAt::Home(account) = at else { return &mut self.elsewhere };
        let is_over = |standing: &Standing| standing.holds.iter().all(|hold| hold.is_over(now));
        self.known.retain(|account, standing| !matches!(account, Account::Guest(_)) || !is_over(standing));
        if self.is_crowded(account) && !self.known.contains_key(&account) {
            return &mut self.others;
        }
        &mut self.known.entry(account).or_default().holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

    fn throttle(accounts: &mut Accounts, now: Instant, account: Account, at: EndedAt) {
        let admission = accounts.admit(now, account, Traffic::Pull);
        accounts.throttled(now, admission, at, HOUR, 0.0);
    }

    fn may(accounts: &Accounts, now: Instant, account: Account) -> bool {
        accounts.peek(now, account, Traffic::Pull).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn each_account_is_silent_for_itself_and_where_redirects_lead_all_are() {
        let (now, mut accounts) = (Instant::now(), Accounts::default());
        let all = [Account::Anonymous, Account::Own(0), Account::Own(1), Account::Guest(7), Account::Guest(8)];
        for silent in [Account::Guest(7), Account::Own(1), Account::Anonymous] {
            throttle(&mut accounts, now, silent, EndedAt::Home(silent));
        }
        assert_eq!(all.map(|account| may(&accounts, now, account)), [false, true, false, false, true]);
        throttle(&mut accounts, now, Account::Own(0), EndedAt::Elsewhere);
        assert!(all.iter().all(|account| !may(&accounts, now, *account)));
        assert!(accounts.peek(now, Account::Own(0), Traffic::Layer).is_ok(), "of this kind alone");
        // A bare request that led to a sign-in which was refused.
        let mut accounts = Accounts::default();
        throttle(&mut accounts, now, Account::Anonymous, EndedAt::Home(Account::Own(0)));
        assert_eq!([Account::Anonymous, Account::Own(0)].map(|account| may(&accounts, now, account)), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_cannot_make_up_more_than_so_many() {
        let (mut now, mut accounts) = (Instant::now(), Accounts::default());
        throttle(&mut accounts, now, Account::Own(0), EndedAt::Home(Account::Own(0)));
        for number in 0..2 * MOST as u64 {
            throttle(&mut accounts, now, Account::Guest(number), EndedAt::Home(Account::Guest(number)));
        }
        assert_eq!(accounts.known.len(), MOST);
        assert!(!may(&accounts, now, Account::Guest(u64::MAX)), "so many 429s are no matter of a login");
        assert!(may(&accounts, now, Account::Own(1)) && may(&accounts, now, Account::Anonymous), "the mirror is no caller");
        // It passes.
        now += Duration::from_secs(7200);
        throttle(&mut accounts, now, Account::Guest(u64::MAX), EndedAt::Home(Account::Guest(u64::MAX)));
        assert_eq!(accounts.known.len(), 2);
        assert!(may(&accounts, now, Account::Guest(0)));
    }

    /// `ratelimit-remaining: 0;w=18446744073709551615`
    #[tokio::test(start_paused = true)]
    async fn a_window_may_be_longer_than_a_clock_goes() {
        let now = Instant::now();
        let told = |window| Told { quota: Quota { limit: None, remaining: 0, window, source: None }, at: now };
        let later = now + Duration::from_secs(3600);
        assert!(!told(Some(Duration::from_secs(u64::MAX))).is_outdated(later) && !told(None).is_outdated(later));
        assert!(told(HOUR).is_outdated(later) && !told(HOUR).is_outdated(later - Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_callers_are_told_is_not_the_mirrors() {
        let (now, mut accounts) = (Instant::now(), Accounts::default());
        let quota = |remaining| Quota { limit: None, remaining, window: None, source: None };
        accounts.told(now, Account::Guest(1), quota(1));
        accounts.told(now, Account::Own(0), quota(50));
        throttle(&mut accounts, now, Account::Guest(1), EndedAt::Home(Account::Guest(1)));
        assert_eq!(accounts.quotas().map(|told| told.quota.remaining).collect::<Vec<_>>(), [50]);
        assert_eq!(accounts.held(now, Traffic::Pull), None);
    }
}
