//! Several values that take turns, as `NAME_POOL` lists them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CredentialError, Secret};

/// The values of one pool, and whose turn it is: one count for all rules that use it.
#[derive(Debug)]
pub(super) struct Pool {
    values: Box<[Arc<Secret>]>,
    turn: AtomicUsize,
}

impl Pool {
    /// Reads a list with commas; blanks around a value are no part of it.
    pub(super) fn read(name: &str, list: &str) -> Result<Self, CredentialError> {
        let values = list.split(',').map(|value| match value.trim() {
            "" => Err(CredentialError::EmptyInPool { name: name.into() }),
            value if value.contains(char::is_control) => Err(CredentialError::NotAHeader),
            value => Ok(Arc::new(Secret::new(value))),
        });
        Ok(Self {
            values: values.collect::<Result<_, _>>()?,
            turn: AtomicUsize::new(0),
        })
    }

    /// The value whose turn it is; the next one's comes then.
    pub(super) fn next(&self) -> Arc<Secret> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.values.len();
        let value = self.values.get(turn).expect("the remainder is below");
        Arc::clone(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pool: &Pool) -> String {
        pool.next().expose().to_owned()
    }

    #[test]
    fn values_take_turns() {
        let pool = Pool::read("T", " a,b b ,c").unwrap();
        let turns: Vec<_> = (0..5).map(|_| shown(&pool)).collect();
        assert_eq!(turns, ["a", "b b", "c", "a", "b b"]);
    }

    #[test]
    fn threads_share_the_turns_evenly() {
        let pool = Pool::read("T", "a,b,c,d").unwrap();
        let take = || (0..1000).filter(|_| shown(&pool) == "a").count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn an_entry_that_is_empty_is_refused() {
        for list in ["a,", ",", "a, ,b"] {
            let error = Pool::read("T", list).unwrap_err().to_string();
            assert_eq!(
                error,
                "T_POOL has an empty entry (write values with commas between them)"
            );
        }
    }
}
