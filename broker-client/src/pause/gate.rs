//! What is closed of one connection, and what is in flight through it.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use accept_rules::{DenyReason, HeldBack};
use broker_protocol::Problem;
use futures_util::task::AtomicWaker;
use tokio::sync::watch;

/// One connection's gate. Every allowed request passes it before it is put on record, and whatever is closed later
/// cuts what has passed: no request goes on that a pause is about. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Whether all of it is closed.
    is_closed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    closures: Vec<Closure>,
    /// By a number of no meaning.
    in_flight: HashMap<u64, InFlight>,
    next: u64,
}

struct InFlight {
    rule: RuleId,
    cut: Arc<Cut>,
}

/// One rule of one accept file: with another file the same number is another rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleId {
    /// The file's; `None` where there is none.
    pub(crate) sha256: Option<Arc<str>>,
    pub(crate) rule: usize,
}

/// A part of the connection that is closed.
#[derive(Debug, Clone)]
pub(crate) struct Closure {
    /// `None` is all of it.
    pub(crate) rule: Option<RuleId>,
    pub(crate) until: Option<SystemTime>,
}

/// Why a request does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shut {
    pub(crate) why: HeldBack,
    pub(crate) until: Option<SystemTime>,
}

/// One request's way through the gate, until it is dropped.
pub(crate) struct Passage {
    gate: Gate,
    number: u64,
    cut: Arc<Cut>,
}

#[derive(Default)]
struct Cut {
    shut: OnceLock<Shut>,
    /// Of the one task that looks after the request.
    waker: AtomicWaker,
}

impl Gate {
    pub(crate) fn open() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            is_closed: watch::Sender::new(false),
        }))
    }

    /// Closes exactly these parts, and cuts what is in flight through them.
    pub(crate) fn close(&self, closures: Vec<Closure>) {
        let mut state = self.state();
        self.0
            .is_closed
            .send_replace(closures.iter().any(|closure| closure.rule.is_none()));
        for InFlight { rule, cut } in state.in_flight.values() {
            if let Some(shut) = shut(&closures, rule) {
                // What was cut once stays cut.
                let _ = cut.shut.set(shut);
                cut.waker.wake();
            }
        }
        state.closures = closures;
    }

    /// Lets a request by this rule pass, until it is cut.
    pub(crate) fn pass(&self, rule: RuleId) -> Result<Passage, Shut> {
        let mut state = self.state();
        if let Some(shut) = shut(&state.closures, &rule) {
            return Err(shut);
        }
        let (number, cut) = (state.next, Arc::new(Cut::default()));
        state.next += 1;
        let in_flight = InFlight {
            rule,
            cut: Arc::clone(&cut),
        };
        state.in_flight.insert(number, in_flight);
        drop(state);
        Ok(Passage {
            gate: self.clone(),
            number,
            cut,
        })
    }

    /// Whether the rules of this file are closed because a pause is about a rule of another one.
    pub(crate) fn waits_for_another_file(&self, sha256: Option<&str>) -> bool {
        let state = self.state();
        let mut rules = state.closures.iter().filter_map(|it| it.rule.as_ref());
        rules.any(|rule| rule.sha256.as_deref() != sha256)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.0.is_closed.borrow()
    }

    /// Waits until all of it is closed, or none of it as a whole.
    pub(crate) async fn until(&self, is_closed: bool) {
        let mut changes = self.0.is_closed.subscribe();
        // Fails only without a sender, and this gate has one.
        drop(changes.wait_for(|now| *now == is_closed).await);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// Waits until the request is cut.
    pub(crate) async fn cut(&self) -> Shut {
        poll_fn(|cx| self.poll_cut(cx)).await
    }

    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Shut> {
        if self.cut.shut.get().is_none() {
            self.cut.waker.register(cx.waker());
        }
        // Looked at after the waker was left, so that no cut is missed.
        match self.cut.shut.get() {
            Some(shut) => Poll::Ready(*shut),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passage({})", self.number)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.gate.state().in_flight.remove(&self.number);
    }
}

impl Shut {
    /// Adds why, and when to try again, to what the caller of a request under way is told.
    pub(crate) fn tell(&self, problem: Problem) -> Problem {
        let problem = problem.with("reason", DenyReason::HeldBack(self.why).code());
        match self.wait() {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        }
    }

    /// How long it is known to last.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let until = self.until?;
        let wait = until.duration_since(SystemTime::now());
        Some(wait.unwrap_or_default().max(Duration::from_secs(1)))
    }
}

/// All of it before a rule of its own, and that before a rule that cannot be found: which rule of this file is the
/// paused one nobody can say, so none of them passes.
fn shut(closures: &[Closure], rule: &RuleId) -> Option<Shut> {
    let found = |why, is_it: &dyn Fn(&Option<RuleId>) -> bool| {
        let closure = closures.iter().find(|closure| is_it(&closure.rule))?;
        Some(Shut {
            why,
            until: closure.until,
        })
    };
    let is_of_another_file = |closed: &Option<RuleId>| {
        closed
            .as_ref()
            .is_some_and(|closed| closed.sha256 != rule.sha256)
    };
    found(HeldBack::AgentPaused, &Option::is_none)
        .or_else(|| {
            found(HeldBack::RulePaused, &|closed| {
                closed.as_ref() == Some(rule)
            })
        })
        .or_else(|| found(HeldBack::PausedRuleUnknown, &is_of_another_file))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn rule(sha256: &str, rule: usize) -> RuleId {
        RuleId {
            sha256: Some(sha256.into()),
            rule,
        }
    }

    fn closure(rule: Option<RuleId>) -> Closure {
        Closure { rule, until: None }
    }

    fn why(gate: &Gate, of: RuleId) -> Option<HeldBack> {
        gate.pass(of).err().map(|shut| shut.why)
    }

    #[test]
    fn a_closed_rule_lets_the_others_of_its_file_pass_and_none_of_another_file() {
        let gate = Gate::open();
        gate.close(vec![closure(Some(rule("a", 1)))]);
        for (of, expected) in [
            (rule("a", 0), None),
            (rule("a", 1), Some(HeldBack::RulePaused)),
            (rule("a", 2), None),
            (rule("b", 0), Some(HeldBack::PausedRuleUnknown)),
            (rule("b", 1), Some(HeldBack::PausedRuleUnknown)),
        ] {
            assert_eq!(why(&gate, of.clone()), expected, "{of:?}");
        }
        assert!(!gate.is_closed());
        assert!(gate.waits_for_another_file(Some("b")) && gate.waits_for_another_file(None));
        assert!(!gate.waits_for_another_file(Some("a")));
    }

    #[test]
    fn what_is_closed_as_a_whole_is_so_for_every_rule() {
        let gate = Gate::open();
        gate.close(vec![closure(Some(rule("a", 1))), closure(None)]);
        for of in [rule("a", 0), rule("a", 1), rule("b", 0)] {
            assert_eq!(why(&gate, of), Some(HeldBack::AgentPaused));
        }
        assert!(gate.is_closed());
    }

    #[test]
    fn closing_cuts_what_is_in_flight_by_the_closed_rules_alone() {
        let gate = Gate::open();
        let [first, second] = [0, 1].map(|number| gate.pass(rule("a", number)).unwrap());
        let (mut of_first, mut of_second) = (pin!(first.cut()), pin!(second.cut()));
        assert!(of_first.as_mut().now_or_never().is_none());

        gate.close(vec![closure(Some(rule("a", 0)))]);
        assert_eq!(of_first.now_or_never().unwrap().why, HeldBack::RulePaused);
        assert!(of_second.as_mut().now_or_never().is_none());

        gate.close(vec![closure(None)]);
        assert_eq!(of_second.now_or_never().unwrap().why, HeldBack::AgentPaused);
    }

    #[test]
    fn what_was_cut_stays_cut_when_the_gate_opens_again() {
        let gate = Gate::open();
        let passage = gate.pass(rule("a", 0)).unwrap();
        gate.close(vec![closure(None)]);
        gate.close(Vec::new());
        assert!(passage.cut().now_or_never().is_some());
        assert_eq!(why(&gate, rule("a", 0)), None);
    }

    #[test]
    fn a_request_that_has_ended_is_forgotten() {
        let gate = Gate::open();
        drop(gate.pass(rule("a", 0)).unwrap());
        assert!(gate.state().in_flight.is_empty());
    }
}
