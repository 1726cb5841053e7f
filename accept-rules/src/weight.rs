//! What compiled patterns weigh: each is bounded, but a file of some megabytes has room for hundreds
//! of thousands.

/// Most that all patterns of a file may weigh, in bytes; those of the longest file in use weigh a
/// hundredth of this. Ready to match they take a few times as much.
pub(crate) const MAX_WEIGHT: usize = 128 << 20;

/// What a pattern weighs that cannot be compiled: finding that out may have cost as much as one that
/// can. More than are shown end the reading of patterns: the file is refused for each already.
pub(crate) const FAILED_WEIGHT: usize = MAX_WEIGHT >> 7;

/// Limits to try below the one that counts: which one suffices is all that `regex` tells of a size.
const STEPS: [usize; 3] = [1 << 12, 1 << 14, 1 << 17];

/// A pattern that may have compiled expressions.
pub(crate) trait Weigh {
    /// What they weigh, in bytes, at most.
    fn weight(&self) -> usize;
}

/// Compiles an expression of at most `limit` bytes, and weighs it.
///
/// # Errors
/// Those of `compile` with the limit.
pub(crate) fn weighed<R>(
    limit: usize,
    compile: impl Fn(usize) -> Result<R, regex::Error>,
) -> Result<(R, usize), regex::Error> {
    for step in STEPS.into_iter().filter(|step| *step < limit) {
        match compile(step) {
            Err(regex::Error::CompiledTooBig(_)) => {}
            compiled => return Ok((compiled?, step)),
        }
    }
    Ok((compile(limit)?, limit))
}
