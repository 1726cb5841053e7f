//! What the agent is doing right now, for `broker-client status` and the probes.

mod snapshot;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::audit::AuditPosition;
use crate::pause::Pause;

use self::snapshot::{noted, printable, rfc3339};

pub use self::snapshot::{
    About, AcceptFile, AuditStatus, ConnectionStatus, CredentialSource, Denial, Noted,
    NotedFailure, StatusSnapshot, Tunnel, TunnelFailure, TunnelState,
};
pub(crate) use self::snapshot::{escaped, row};

/// Denials that are remembered, those of all connections together; the audit log has them all.
const DENIALS: usize = 20;

/// Collects the state of all parts of the agent; clones are the same board.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    audit: Arc<AuditPosition>,
    state: Arc<Mutex<State>>,
    /// How many tunnels can take a request, for whoever waits for it; told anew with each change but those of denials.
    connected: Arc<watch::Sender<usize>>,
}

#[derive(Debug)]
struct State {
    about: About,
    connections: Vec<ConnectionStatus>,
    /// Of each connection, those of the accept file in force; they go with it.
    rules_warnings: Vec<Vec<String>>,
    credentials: Vec<CredentialSource>,
    denials: VecDeque<Denial>,
    warnings: Vec<String>,
}

/// One connection's part of a board.
#[derive(Debug, Clone)]
pub struct ConnectionBoard {
    board: StatusBoard,
    place: usize,
}

impl StatusBoard {
    /// A board for these connections, as they are at first.
    #[must_use]
    pub fn new(
        about: About,
        connections: Vec<ConnectionStatus>,
        audit: Arc<AuditPosition>,
    ) -> Self {
        let state = State {
            about,
            rules_warnings: vec![Vec::new(); connections.len()],
            connections,
            credentials: Vec::new(),
            denials: VecDeque::with_capacity(DENIALS),
            warnings: Vec::new(),
        };
        Self {
            audit,
            state: Arc::new(Mutex::new(state)),
            connected: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Each connection's part, in the order in which they were given.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionBoard> {
        let part = |place| ConnectionBoard {
            board: self.clone(),
            place,
        };
        (0..self.state().connections.len()).map(part).collect()
    }

    /// These are all sources of credentials that can change, as they are now.
    pub fn credentials(&self, sources: Vec<CredentialSource>) {
        self.state().credentials = sources;
        self.tell();
    }

    /// Something that the operator should change; the same text is kept once.
    pub fn warn(&self, text: &str) {
        let mut state = self.state();
        if !state.warnings.iter().any(|known| known == text) {
            state.warnings.push(text.to_owned());
        }
        drop(state);
        self.tell();
    }

    /// How many tunnels can take a request now.
    #[must_use]
    pub fn connected_tunnels(&self) -> usize {
        *self.connected.borrow()
    }

    /// Waits until exactly `count` tunnels can take a request.
    pub async fn until_connected(&self, count: usize) {
        let mut connected = self.connected.subscribe();
        // Fails only without a sender, and this board has one.
        drop(connected.wait_for(|now| *now == count).await);
    }

    /// Waits until `wanted` holds; denials and the audit log wake nobody.
    pub async fn until(&self, wanted: impl Fn(&StatusSnapshot) -> bool) {
        let mut connected = self.connected.subscribe();
        // Every other change is told, also where the count stays; this board keeps the sender.
        while !wanted(&self.snapshot()) && connected.changed().await.is_ok() {}
    }

    /// Everything at this moment.
    #[must_use]
    pub fn snapshot(&self) -> StatusSnapshot {
        let failing = self.audit.failure();
        let audit = AuditStatus {
            log: self.audit.log().to_owned(),
            seq: self.audit.seq(),
            failing: failing.map(|(since, why)| noted(since, &why)),
        };
        let state = self.state();
        let warnings = std::iter::once(&state.warnings).chain(&state.rules_warnings);
        StatusSnapshot {
            time: rfc3339(SystemTime::now()),
            about: state.about.clone(),
            connections: state.connections.clone(),
            credentials: state.credentials.clone(),
            denials: state.denials.iter().cloned().collect(),
            audit,
            warnings: warnings.flatten().cloned().collect(),
        }
    }

    /// Wakes whoever waits for a change.
    fn tell(&self) {
        let state = self.state();
        let connected = state.connections.iter();
        let connected = connected.map(ConnectionStatus::connected_tunnels).sum();
        self.connected.send_replace(connected);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionBoard {
    /// The tunnel at `slot` is being dialled, or will be at `next`, after `last_error`.
    pub fn tunnel_dialling(
        &self,
        slot: usize,
        attempt: u32,
        last_error: Option<&TunnelFailure>,
        next: Option<SystemTime>,
    ) {
        self.tunnel(slot, last_error, |_| TunnelState::Dialling {
            attempt,
            next_attempt_at: next.map(rfc3339),
        });
    }

    /// The tunnel at `slot` is up, to the server's `node`.
    pub fn tunnel_connected(&self, slot: usize, node: &str) {
        self.tunnel(slot, None, |now| TunnelState::Connected {
            since: now,
            node: printable(node),
        });
    }

    /// The tunnel at `slot` is down; `reason` is `None` where the agent itself wanted that.
    pub fn tunnel_closed(&self, slot: usize, reason: Option<&TunnelFailure>) {
        self.tunnel(slot, reason, |now| TunnelState::Closed { since: now });
    }

    /// An accept file is in force from now on, with what its operator should change; without `path`, everything is
    /// denied.
    pub fn rules_loaded(
        &self,
        path: Option<&str>,
        sha256: Option<&str>,
        private_rules: usize,
        public_rules: usize,
        warnings: &[String],
    ) {
        let accept = AcceptFile {
            path: path.map(str::to_owned),
            sha256: sha256.map(str::to_owned),
            private_rules,
            public_rules,
            loaded_at: Some(rfc3339(SystemTime::now())),
            refused: None,
        };
        let mut state = self.board.state();
        if let Some(known) = state.rules_warnings.get_mut(self.place) {
            *known = warnings.to_vec();
        }
        drop(state);
        self.change(|connection| connection.accept = accept);
    }

    /// What the accept file holds now is not in force, the one before stays.
    pub fn rules_refused(&self, why: &str) {
        let refused = noted(SystemTime::now(), why);
        self.change(|connection| connection.accept.refused = Some(refused));
    }

    /// The accept file holds what is in force, again where it was refused before.
    pub fn rules_unchanged(&self) {
        self.change(|connection| connection.accept.refused = None);
    }

    /// These are all pauses that are about this connection.
    pub fn paused(&self, pauses: Vec<Pause>) {
        self.change(|connection| connection.paused = pauses);
    }

    /// A request was denied; `nearest` is the rule that came nearest, and what differed first.
    pub fn denied(
        &self,
        request_id: &str,
        method: &str,
        path: &str,
        reason: &str,
        nearest: Option<String>,
    ) {
        let mut state = self.board.state();
        let agent = state.connections.get(self.place);
        let denial = Denial {
            time: rfc3339(SystemTime::now()),
            agent: agent.map_or_else(String::new, |connection| connection.agent.clone()),
            request_id: printable(request_id),
            method: printable(method),
            path: printable(path),
            reason: reason.to_owned(),
            nearest: nearest.as_deref().map(printable),
        };
        if state.denials.len() == DENIALS {
            state.denials.pop_front();
        }
        state.denials.push_back(denial);
    }

    /// Something that the operator should change, wherever it is.
    pub fn warn(&self, text: &str) {
        self.board.warn(text);
    }

    fn tunnel(
        &self,
        slot: usize,
        error: Option<&TunnelFailure>,
        to_state: impl FnOnce(String) -> TunnelState,
    ) {
        let now = rfc3339(SystemTime::now());
        self.change(|connection| {
            let Some(tunnel) = connection.tunnels.get_mut(slot) else {
                debug_assert!(false, "there is no tunnel {slot}");
                return;
            };
            tunnel.state = to_state(now.clone());
            if let Some(error) = error {
                tunnel.last_error = Some(NotedFailure {
                    time: now,
                    code: error.code.to_owned(),
                    text: printable(&error.text),
                });
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut ConnectionStatus)) {
        let mut state = self.board.state();
        match state.connections.get_mut(self.place) {
            Some(connection) => change(connection),
            None => debug_assert!(false, "a board keeps its connections"),
        }
        drop(state);
        self.board.tell();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of the connection `sonarqube` alone, with two tunnels.
    pub(crate) fn board() -> StatusBoard {
        board_of(&["sonarqube"])
    }

    /// Of these connections, with two tunnels each.
    pub(crate) fn board_of(agents: &[&str]) -> StatusBoard {
        let about = About {
            instance: "default".to_owned(),
            run_id: "3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let connection = |agent: &&str| {
            ConnectionStatus::new(&agent.parse().unwrap(), "https://broker.example", 2)
        };
        let audit = AuditPosition::at_rest("/data/default/audit.jsonl");
        let connections = agents.iter().map(connection).collect();
        StatusBoard::new(about, connections, Arc::new(audit))
    }

    /// The first connection's part of `board`.
    pub(crate) fn first(board: &StatusBoard) -> ConnectionBoard {
        board.connections().remove(0)
    }

    fn failure(text: &str) -> TunnelFailure {
        TunnelFailure {
            code: "unreachable",
            text: text.to_owned(),
        }
    }

    #[test]
    fn only_connected_tunnels_count() {
        let board = board();
        assert_eq!(board.connected_tunnels(), 0);
        first(&board).tunnel_connected(0, "n1");
        first(&board).tunnel_connected(1, "n2");
        assert_eq!(board.connected_tunnels(), 2);
        first(&board).tunnel_dialling(0, 1, None, None);
        first(&board).tunnel_closed(1, Some(&failure("lost")));
        assert_eq!(board.connected_tunnels(), 0);
    }

    #[test]
    fn the_last_error_stays_when_the_tunnel_is_up_again() {
        let board = board();
        first(&board).tunnel_dialling(
            0,
            3,
            Some(&failure("connection refused")),
            Some(SystemTime::now()),
        );
        first(&board).tunnel_connected(0, "n1");
        let error = board.snapshot().connections[0].tunnels[0]
            .last_error
            .clone()
            .unwrap();
        assert_eq!(error.code, "unreachable");
        assert_eq!(error.text, "connection refused");
    }

    #[test]
    fn the_last_twenty_denials_are_kept() {
        let board = board();
        for request in 0..25 {
            first(&board).denied(&format!("r{request}"), "GET", "/x", "no-rule", None);
        }
        let ids: Vec<_> = board
            .snapshot()
            .denials
            .into_iter()
            .map(|denial| denial.request_id)
            .collect();
        assert_eq!(ids.len(), 20);
        assert_eq!((ids[0].as_str(), ids[19].as_str()), ("r5", "r24"));
    }

    #[test]
    fn texts_of_others_are_cut_and_cannot_steer_a_terminal() {
        let board = board();
        first(&board).denied(
            "r",
            "GET",
            &format!("/\x1b[2J{}", "x".repeat(1000)),
            "no-rule",
            None,
        );
        let path = board.snapshot().denials[0].path.clone();
        assert!(
            path.starts_with("/\\u{1b}[2Jxxx") && path.ends_with("x…"),
            "{path}"
        );
        assert!(path.len() < 320);
    }

    #[test]
    fn a_new_file_clears_what_was_refused() {
        let board = board();
        first(&board).rules_refused("private[0]: unknown method");
        assert!(board.snapshot().connections[0].accept.refused.is_some());
        first(&board).rules_loaded(Some("/etc/accept.json"), Some("ab"), 3, 0, &[]);
        assert!(board.snapshot().connections[0].accept.refused.is_none());
    }

    #[test]
    fn the_file_in_force_clears_what_was_refused_and_stays_as_it_was_loaded() {
        let board = board();
        first(&board).rules_loaded(Some("/etc/accept.json"), Some("ab"), 3, 0, &[]);
        let loaded = board.snapshot().connections.remove(0).accept;
        first(&board).rules_refused("private[0]: unknown method");
        first(&board).rules_unchanged();
        assert_eq!(board.snapshot().connections[0].accept, loaded);
    }

    #[test]
    fn warnings_of_an_accept_file_go_with_it() {
        let board = board();
        board.warn("tls-min is 1.2");
        first(&board).rules_loaded(
            Some("/etc/accept.json"),
            Some("ab"),
            1,
            0,
            &["old".to_owned()],
        );
        assert_eq!(board.snapshot().warnings, ["tls-min is 1.2", "old"]);
        first(&board).rules_loaded(Some("/etc/accept.json"), Some("cd"), 1, 0, &[]);
        assert_eq!(board.snapshot().warnings, ["tls-min is 1.2"]);
    }

    #[test]
    fn people_see_aligned_rows() {
        let board = board();
        first(&board).tunnel_dialling(1, 2, Some(&failure("connection refused")), None);
        board.warn("ALL_PROXY is set and not used");
        board.warn("ALL_PROXY is set and not used");
        let mut snapshot = board.snapshot();
        snapshot.time = "2026-11-24T12:00:05.000Z".to_owned();
        let then = "2026-11-24T12:00:00.000Z".to_owned();
        for (source, failing) in [("file /run/a", None), ("file /run/b", Some("is empty"))] {
            let at = humantime::parse_rfc3339(&then).unwrap();
            let source = CredentialSource::new(source, at, failing);
            let source = match failing {
                None => source.not_renewed(at, "timed out"),
                Some(_) => source,
            };
            snapshot.credentials.push(source);
        }
        snapshot.connections[0].tunnels[0].state = TunnelState::Connected {
            since: then.clone(),
            node: "n1".to_owned(),
        };
        snapshot.connections[0].tunnels[1]
            .last_error
            .as_mut()
            .unwrap()
            .time = then.clone();
        snapshot.denials.push(Denial {
            time: then,
            agent: "sonarqube".to_owned(),
            request_id: "r1".to_owned(),
            method: "GET".to_owned(),
            path: "/secret".to_owned(),
            reason: "no-match".to_owned(),
            nearest: Some(
                "private[0] GET /public: segment 1 \"secret\" is not \"public\"".to_owned(),
            ),
        });

        let expected = "\
instance     default  (version 0.1.0, run 3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10)
agent        sonarqube
tunnel 1     https://broker.example  connected to node n1 since 2026-11-24T12:00:00.000Z (5s ago)
tunnel 2     https://broker.example  dialling, attempt 2
             last error 5s ago (unreachable): connection refused
accept file  none: denies everything
credential   file /run/a, the same since 2026-11-24T12:00:00.000Z (5s ago)
             could not be renewed 5s ago: timed out
credential   file /run/b UNAVAILABLE since 2026-11-24T12:00:00.000Z (5s ago), requests that need it are refused: is empty
audit log    /data/default/audit.jsonl, last line 0
warning      ALL_PROXY is set and not used
denials      the last 1, newest first
  2026-11-24T12:00:00.000Z  r1  GET  /secret  no-match
    nearest is private[0] GET /public: segment 1 \"secret\" is not \"public\"
";
        assert_eq!(snapshot.to_string(), expected);
    }

    #[test]
    fn several_connections_stand_apart_and_denials_name_theirs() {
        let board = board_of(&["sonarqube", "ci"]);
        for connection in board.connections() {
            connection.denied("r1", "GET", "/secret", "no-match", None);
        }
        let mut snapshot = board.snapshot();
        for denial in &mut snapshot.denials {
            denial.time = "2026-11-24T12:00:00.000Z".to_owned();
        }
        let expected = "\
instance     default  (version 0.1.0, run 3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10)

agent        sonarqube
tunnel 1     https://broker.example  dialling, attempt 0
tunnel 2     https://broker.example  dialling, attempt 0
accept file  none: denies everything

agent        ci
tunnel 1     https://broker.example  dialling, attempt 0
tunnel 2     https://broker.example  dialling, attempt 0
accept file  none: denies everything

audit log    /data/default/audit.jsonl, last line 0
denials      the last 2, newest first
  2026-11-24T12:00:00.000Z  r1  ci         GET  /secret  no-match
  2026-11-24T12:00:00.000Z  r1  sonarqube  GET  /secret  no-match
";
        assert_eq!(snapshot.to_string(), expected);
    }

    #[test]
    fn each_connection_has_a_part_of_its_own() {
        let board = board_of(&["sonarqube", "ci"]);
        let [sonarqube, ci] = &board.connections()[..] else {
            panic!("there are two");
        };
        sonarqube.rules_loaded(Some("/a.json"), Some("ab"), 1, 0, &["of a".to_owned()]);
        sonarqube.tunnel_connected(0, "n1");
        ci.rules_refused("is gone");
        ci.tunnel_connected(1, "n1");

        let [first, second] = &board.snapshot().connections[..] else {
            panic!("there are two");
        };
        assert_eq!(first.accept.path.as_deref(), Some("/a.json"));
        assert!(first.accept.refused.is_none() && second.accept.refused.is_some());
        assert_eq!(
            (first.connected_tunnels(), second.connected_tunnels()),
            (1, 1)
        );
        assert_eq!(board.connected_tunnels(), 2);
    }

    #[test]
    fn a_snapshot_survives_json() {
        let board = board();
        first(&board).tunnel_connected(0, "n1");
        let snapshot = board.snapshot();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert!(json.contains(r#""state":"connected""#), "{json}");
        assert_eq!(
            serde_json::from_str::<StatusSnapshot>(&json).unwrap(),
            snapshot
        );
    }
}
