//! The one writer. It has a thread of its own because `write(2)` to a disk may take long, and must
//! not hold up the threads that serve every tunnel.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::chain::{Chain, MAX_LINE};
use super::record::{
    ConnectionStart, Identity, RecoveredRecord, ReopenedRecord, StartRecord, StopRecord,
};
use super::sink::{Sink, WriteFailed};
use super::{AuditOpenError, AuditPosition, AuditUnavailable, OutcomeSlot};

/// Most entries per `write(2)`: about 300 KiB, which the page cache takes in well under 1 ms.
const BATCH: usize = 512;

/// How long a written line may stay in memory only, and how often a failed log is tried again while
/// outcomes wait for it.
const TICK: Duration = Duration::from_millis(200);

/// What the queue carries. A line is a JSON object that lacks the chain's own fields.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the queue is bounded, and a box for every allowed request would cost more than its places"
)]
pub(super) enum Entry {
    /// The slot comes back once the line is written; if the requester is gone by then, dropping it
    /// records an outcome, so no allowed request is without one.
    Allow {
        line: Vec<u8>,
        slot: OutcomeSlot,
        written: oneshot::Sender<Result<OutcomeSlot, AuditUnavailable>>,
    },
    /// A line that no outcome follows.
    Alone {
        line: Vec<u8>,
        written: oneshot::Sender<Result<(), AuditUnavailable>>,
    },
    Outcome {
        line: Vec<u8>,
    },
    /// Take no more decisions; end when the last outcome is in.
    Close,
}

impl Entry {
    fn line(&self) -> Option<&[u8]> {
        match self {
            Self::Allow { line, .. } | Self::Alone { line, .. } | Self::Outcome { line } => {
                Some(line)
            }
            Self::Close => None,
        }
    }

    fn succeed(self) {
        match self {
            Self::Allow { slot, written, .. } => {
                // Without a receiver the slot comes back in the error and is dropped: see above.
                drop(written.send(Ok(slot)));
            }
            Self::Alone { written, .. } => drop(written.send(Ok(()))),
            Self::Outcome { .. } | Self::Close => {}
        }
    }

    /// Refuses a decision; gives an outcome back, for what has happened must be recorded.
    fn fail(self, why: &AuditUnavailable) -> Option<Vec<u8>> {
        match self {
            Self::Allow { slot, written, .. } => {
                slot.disarm();
                drop(written.send(Err(why.clone())));
                None
            }
            Self::Alone { written, .. } => {
                drop(written.send(Err(why.clone())));
                None
            }
            Self::Outcome { line } => Some(line),
            Self::Close => None,
        }
    }
}

/// Owns the writer thread, and the task that hands it its work.
#[derive(Debug)]
pub struct AuditWriter {
    queue: mpsc::Sender<Entry>,
    gathering: JoinSet<()>,
    ended: oneshot::Receiver<Result<(), AuditUnavailable>>,
    thread: thread::JoinHandle<()>,
}

impl AuditWriter {
    /// Takes no more decisions, waits until every [`OutcomeSlot`] is finished or dropped, writes a
    /// `stop` record, and returns when all lines are on the disk. Await or abort all exchanges
    /// first.
    ///
    /// # Errors
    /// Where the last lines could not be written.
    pub async fn close(self) -> Result<(), AuditUnavailable> {
        let Self {
            queue,
            gathering,
            ended,
            thread,
        } = self;
        // Fails only where the thread is gone already; `ended` tells why.
        drop(queue.send(Entry::Close).await);
        drop(queue);
        gathering.join_all().await;
        let result = ended.await;
        // The thread's last act was to send the result, so this does not block.
        match (result, thread.join()) {
            (Ok(result), _) => result,
            (Err(_), _) => Err(AuditUnavailable {
                log: "writer".into(),
                cause: "the thread ended without a result".into(),
            }),
        }
    }
}

/// Opens the log, writes the `start` record, and starts the thread.
pub(super) fn start(
    path: Option<PathBuf>,
    identity: Arc<Identity>,
    position: Arc<AuditPosition>,
    connections: &[ConnectionStart],
    capacity: usize,
) -> Result<(mpsc::Sender<Entry>, AuditWriter), AuditOpenError> {
    let io = |source| AuditOpenError::Io {
        log: Arc::clone(&position.log),
        source,
    };
    let (sink, tail, is_whole_file) = Sink::open(path, MAX_LINE).map_err(io)?;
    let chain = Chain::continue_after(&tail, is_whole_file).map_err(|problem| {
        AuditOpenError::LastLine {
            log: Arc::clone(&position.log),
            problem,
        }
    })?;
    let mut writer = Writer {
        identity,
        position: Arc::clone(&position),
        chain,
        sink,
        kept: Vec::new(),
        buffer: Vec::new(),
        ends: Vec::new(),
        unsynced: false,
        sync: None,
    };
    writer.write_start(connections).map_err(io)?;

    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(io)?;
    let (queue, entries) = mpsc::channel(capacity);
    let (batches, work) = mpsc::channel(1);
    let (done, ended) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("audit-log".to_owned())
        .spawn(move || drop(done.send(writer.run(&runtime, work))))
        .map_err(io)?;
    let mut gathering = JoinSet::new();
    gathering.spawn(gather(entries, batches));
    let owner = AuditWriter {
        queue: queue.clone(),
        gathering,
        ended,
        thread,
    };
    Ok((queue, owner))
}

/// Hands the thread a crowd's lines at a time: to wake it for each would cost more than to write them all.
async fn gather(mut entries: mpsc::Receiver<Entry>, batches: mpsc::Sender<Vec<Entry>>) {
    loop {
        let mut batch = Vec::new();
        if entries.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        // Those who are about to hand in a line go first, and those who do while the thread is behind come along.
        tokio::task::yield_now().await;
        let Ok(place) = batches.reserve().await else {
            return;
        };
        while batch.len() < BATCH
            && let Ok(entry) = entries.try_recv()
        {
            batch.push(entry);
        }
        if batch.iter().any(|entry| matches!(entry, Entry::Close)) {
            entries.close();
        }
        place.send(batch);
    }
}

struct Writer {
    identity: Arc<Identity>,
    position: Arc<AuditPosition>,
    chain: Chain,
    sink: Sink,
    /// Lines of outcomes that could not be written yet. Bounded: they belong to exchanges that were
    /// in flight when the log failed, and until it works no new one begins.
    kept: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    /// Where in `buffer` the kept lines and then the batch's end, without their newlines.
    ends: Vec<usize>,
    unsynced: bool,
    sync: Option<JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    fn write_start(&mut self, connections: &[ConnectionStart]) -> std::io::Result<()> {
        let start = StartRecord {
            version: env!("CARGO_PKG_VERSION"),
            connections,
            new_chain: self.chain.is_new(),
        };
        self.kept
            .push(self.identity.line("start", SystemTime::now(), start));
        self.write(Vec::new())
    }

    fn run(
        mut self,
        runtime: &Runtime,
        batches: mpsc::Receiver<Vec<Entry>>,
    ) -> Result<(), AuditUnavailable> {
        runtime.block_on(self.serve(batches));
        if let Some(sync) = self.sync.take() {
            self.synced(runtime.block_on(sync));
        }
        self.kept
            .push(self.identity.line("stop", SystemTime::now(), StopRecord {}));
        let unwritten = self.kept.len();
        self.write(Vec::new())
            .and_then(|()| self.sink.to_sync().map_or(Ok(()), |file| file.sync_data()))
            .map_err(|error| {
                let log = &self.position.log;
                tracing::error!(%log, %error, unwritten, "the audit log's last lines are lost");
                self.position.failed(&error.to_string())
            })
    }

    async fn serve(&mut self, mut batches: mpsc::Receiver<Vec<Entry>>) {
        let mut tick = Instant::now() + TICK;
        loop {
            let busy = self.unsynced || self.sync.is_some() || !self.kept.is_empty();
            tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else {
                        return;
                    };
                    // The error has reached the requests, the position and the log.
                    let _ = self.write(batch);
                }
                () = sleep_until(tick), if busy => {
                    tick = Instant::now() + TICK;
                    self.tick().await;
                }
            }
        }
    }

    /// Writes what is kept and then `batch`. Where that fails, the decisions that did not reach the file are refused,
    /// and the outcomes are kept.
    fn write(&mut self, batch: Vec<Entry>) -> std::io::Result<()> {
        match self.try_write(&batch) {
            Ok(()) => {
                self.kept.clear();
                batch.into_iter().for_each(Entry::succeed);
                Ok(())
            }
            Err(WriteFailed { error, landed }) => {
                let why = self.position.failed(&error.to_string());
                // A whole line that lacks only its newline counts, for the chain too.
                let whole = self.ends.iter().take_while(|&&end| end <= landed).count();
                let of_kept = whole.min(self.kept.len());
                self.kept.drain(..of_kept);
                let mut of_batch = whole - of_kept;
                for entry in batch {
                    if entry.line().is_some() && of_batch > 0 {
                        of_batch -= 1;
                        entry.succeed();
                    } else {
                        self.kept.extend(entry.fail(&why));
                    }
                }
                Err(error)
            }
        }
    }

    fn try_write(&mut self, batch: &[Entry]) -> Result<(), WriteFailed> {
        self.buffer.clear();
        self.ends.clear();
        let checked = self.sink.check();
        let reopened = checked.map_err(|error| WriteFailed { error, landed: 0 })?;
        if let Some(reopened) = &reopened {
            let log = &self.position.log;
            tracing::warn!(%log, found = ?reopened.found, "the audit log is not as it was left");
            if reopened.open_line {
                self.chain.found_open_line();
            }
            let record = ReopenedRecord {
                found: reopened.found,
            };
            let line = self.identity.line("reopened", SystemTime::now(), record);
            self.kept.insert(0, line);
        }

        // The chain moves on only with what is in the file.
        let mut chain = self.chain.clone();
        if let Some(torn) = chain.close_open_line(&mut self.buffer) {
            let record = RecoveredRecord {
                lines: torn.lines,
                bytes: torn.bytes,
            };
            let line = self.identity.line("recovered", SystemTime::now(), record);
            chain.append(&line, &mut self.buffer);
        }
        let kept = self.kept.iter().map(Vec::as_slice);
        for line in kept.chain(batch.iter().filter_map(Entry::line)) {
            chain.append(line, &mut self.buffer);
            self.ends.push(self.buffer.len() - 1);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        match self.sink.write(&self.buffer) {
            Ok(()) => {
                self.chain = chain;
                self.unsynced = true;
                self.position.written(self.chain.seq());
                Ok(())
            }
            Err(failed) => {
                let landed = self.buffer.get(..failed.landed);
                self.chain.adopt(landed.unwrap_or_default());
                Err(failed)
            }
        }
    }

    async fn tick(&mut self) {
        if !self.kept.is_empty() {
            // The error is in the position; the lines stay kept.
            let _ = self.write(Vec::new());
        }
        if let Some(sync) = self.sync.take_if(|sync| sync.is_finished()) {
            let result = sync.await;
            self.synced(result);
        }
        if self.unsynced && self.sync.is_none() {
            self.unsynced = false;
            // On another thread: a sync may take many milliseconds, and requests wait for this one.
            self.sync = self
                .sink
                .to_sync()
                .map(|file| tokio::task::spawn_blocking(move || file.sync_data()));
        }
    }

    fn synced(&self, result: Result<std::io::Result<()>, tokio::task::JoinError>) {
        if let Ok(Err(error)) = result {
            let log = &self.position.log;
            tracing::error!(%log, %error, "the audit log's lines may not survive a power failure");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use serde_json::{Value, json};

    use super::super::chain::verify_lines;
    use super::*;

    /// A writer to something that takes some of a batch, and whose bytes cannot be taken back.
    fn writer() -> (UnixStream, Writer) {
        let (reader, writer) = UnixStream::pair().unwrap();
        for end in [&reader, &writer] {
            end.set_nonblocking(true).unwrap();
        }
        let identity = Identity {
            instance: "default".to_owned(),
            run_id: "r".to_owned(),
        };
        let writer = Writer {
            identity: Arc::new(identity),
            position: Arc::new(AuditPosition::new(None)),
            chain: Chain::new(),
            sink: Sink::pipe(writer.into()),
            kept: Vec::new(),
            buffer: Vec::new(),
            ends: Vec::new(),
            unsynced: false,
            sync: None,
        };
        (reader, writer)
    }

    #[test]
    fn what_landed_of_a_batch_that_failed_counts_and_is_not_written_again() {
        let (mut reader, mut writer) = writer();
        let line = |kind, id: usize| {
            let fields = json!({"id": id, "fill": "x".repeat(500)});
            writer.identity.line(kind, SystemTime::now(), fields)
        };
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        for id in 0..1000 {
            let (written, answer) = oneshot::channel();
            answers.push(answer);
            batch.push(Entry::Alone {
                line: line("decision", id),
                written,
            });
            batch.push(Entry::Outcome {
                line: line("outcome", id),
            });
        }

        let mut text = Vec::new();
        writer.write(batch).unwrap_err();
        let mut tries = 0;
        loop {
            // It ends in an error once the socket is empty.
            let _ = reader.read_to_end(&mut text);
            if writer.kept.is_empty() {
                break;
            }
            let _ = writer.write(Vec::new());
            tries += 1;
            assert!(tries < 100, "no end");
        }

        assert!(tries > 1, "the kept lines fail half way too");
        verify_lines(text.as_slice()).unwrap();
        let mut seen: HashMap<(String, u64), usize> = HashMap::new();
        for line in text.split(|&byte| byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<Value>(line)
                && let Some(id) = line["id"].as_u64()
            {
                let kind = line["kind"].as_str().unwrap().to_owned();
                *seen.entry((kind, id)).or_default() += 1;
            }
        }
        let times = |kind: &str, id| seen.get(&(kind.to_owned(), id)).copied();
        let mut passed = 0;
        for (id, mut answer) in (0..).zip(answers) {
            assert_eq!(times("outcome", id), Some(1), "outcome {id}");
            let is_on_record = answer.try_recv().unwrap().is_ok();
            assert_eq!(times("decision", id), is_on_record.then_some(1), "{id}");
            passed += usize::from(is_on_record);
        }
        assert!((1..1000).contains(&passed), "{passed}");
    }
}
