//! One request, end to end. [`Exchange::run`] is the agent's one path, in order: headers, target, decision, record,
//! credential, origin, outcome. Read this first.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use accept_rules::{Allowed, Decision, Denied, Pending, Request as Question};
use broker_protocol::header::{CALLER, REQUEST_ID};
use broker_protocol::hop::Removed;
use broker_protocol::{AgentName, ErrorCode, Problem, TenantId, hop};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::ambiguous::{Ambiguous, target_of};
use crate::answer::{AnswerBody, OriginBody, is_long_lived};
use crate::audit::{
    AuditLog, AuditUnavailable, DecisionContext, Ended, Outcome, OutcomeSlot, Recorded,
    RefusedRequest,
};
use crate::config::Explaining;
use crate::credential::{Credential, CredentialVersion, FingerprintKey};
use crate::denial::{Denial, PAUSED};
use crate::echo_watch::EchoWatch;
use crate::judged_body::BodyKeeper;
use crate::limits::{Limiter, Permit};
use crate::location;
use crate::origin::{OriginError, Outgoing};
use crate::pause::{Gate, Passage};
use crate::rules::{Route, Rules, RulesInForce};
use crate::status::ConnectionBoard;
use crate::upload::{Upload, UploadBody};

/// Longest request id that is taken from the server; a UUID has 36 bytes.
const MAX_REQUEST_ID: usize = 64;

/// Longest name of a caller that is taken from the server, in bytes: its own limit.
const MAX_CALLER: usize = 63;

/// What all requests of one tunnel share.
pub(crate) struct Exchange {
    pub(crate) agent: Arc<AgentName>,
    /// None where requests come through no tunnel.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) rules: RulesInForce,
    pub(crate) audit: AuditLog,
    pub(crate) board: ConnectionBoard,
    pub(crate) bodies: Arc<BodyKeeper>,
    pub(crate) explaining: Explaining,
    /// Of what each caller asks for, whatever the rule.
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) fingerprints: Arc<FingerprintKey>,
    pub(crate) gate: Gate,
}

/// What a request holds while it is under way: its way through the gate, and its place among those that may be.
#[expect(
    dead_code,
    reason = "the permit is kept, and given back when it is dropped"
)]
pub(crate) struct Places {
    pub(crate) passage: Passage,
    pub(crate) permit: Permit,
}

/// Why a request does not reach an origin.
enum Refusal {
    Ambiguous(Ambiguous),
    Denied(Denial),
    Audit(AuditUnavailable),
}

impl Exchange {
    /// Answers one request of the server.
    pub(crate) async fn run(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let (mut parts, body) = request.into_parts();
        let (context, caller) = self.take_context(&mut parts.headers);
        self.answer(parts, Some(body), caller, &context).await
    }

    /// Answers a request of the operator's own, without a body: all the same happens to it.
    pub(crate) async fn run_own(&self, parts: Parts, caller: &str) -> Response<AnswerBody> {
        let context = self.context(Uuid::new_v4().to_string());
        self.answer(parts, None, caller.to_owned(), &context).await
    }

    async fn answer(
        &self,
        mut parts: Parts,
        mut body: Option<Incoming>,
        caller: String,
        context: &DecisionContext,
    ) -> Response<AnswerBody> {
        let removed = hop::remove_from_request(&mut parts.headers);

        // The same for decision and route, whatever takes over meanwhile.
        let rules = self.rules.now();
        match self.judge(&rules, parts, &mut body, caller, context).await {
            Ok((recorded, places)) => {
                self.forward(&rules, recorded, places, removed, body, context)
                    .await
            }
            Err(refusal) => self.refuse(refusal, context),
        }
    }

    /// What the server says of the request, out of the headers that nobody else may set.
    fn take_context(&self, headers: &mut HeaderMap) -> (DecisionContext, String) {
        let mut take = |name: HeaderName| {
            let value = headers.remove(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let request_id = take(REQUEST_ID)
            .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID)
            .unwrap_or_else(|| Uuid::new_v4().to_string());
        // No name is longer: nobody in particular.
        let caller = take(CALLER).filter(|name| name.len() <= MAX_CALLER);
        let caller = caller.unwrap_or_default();
        (self.context(request_id), caller)
    }

    fn context(&self, request_id: String) -> DecisionContext {
        DecisionContext {
            request_id: request_id.into(),
            tenant: self.tenant.clone(),
            agent: Arc::clone(&self.agent),
        }
    }

    /// Decides, and puts the decision on record: only then is there anything that can be sent. Where rules ask about
    /// the body, it is taken and becomes part of what was judged.
    async fn judge(
        &self,
        rules: &Arc<Rules>,
        parts: Parts,
        body: &mut Option<Incoming>,
        caller: String,
        context: &DecisionContext,
    ) -> Result<(Recorded<Allowed>, Places), Refusal> {
        let raw = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let target = match target_of(&parts.method, raw, &parts.headers) {
            Ok(target) => target,
            Err(why) => {
                let method = &parts.method;
                return Err(self
                    .refuse_ambiguous(method, raw, why, &caller, context)
                    .await);
            }
        };
        let question = Question {
            target,
            headers: parts.headers,
            caller: caller.into(),
            now: SystemTime::now(),
        };
        match self.decide(rules, question, body).await {
            Ok((allowed, places)) => {
                let origin = &route_of(rules, &allowed).origin;
                let recorded = self.audit.record_allow(allowed, origin, context).await;
                Ok((recorded.map_err(Refusal::Audit)?, places))
            }
            Err(denial) => {
                self.note_denial(&denial, context);
                self.audit
                    .record_deny(&denial.denied, denial.nearest.as_ref(), context)
                    .await
                    .map_err(Refusal::Audit)?;
                Err(Refusal::Denied(denial))
            }
        }
    }

    /// Decides by the rules, by what is paused, and by the limits of the caller and of the rule that allows it. What is
    /// held back is left to no later rule, since the first that matches decides.
    async fn decide(
        &self,
        rules: &Arc<Rules>,
        question: Question,
        body: &mut Option<Incoming>,
    ) -> Result<(Allowed, Places), Denial> {
        let denial = |denied| Denial::of(denied, &rules.set);
        let mut permit = Permit::default();
        let (allowed, caller_passed) = match rules.set.decide(question) {
            Decision::Allow(allowed) => (allowed, false),
            Decision::NeedsBody(pending) => {
                // Before its body takes a place that others need.
                if let Err(reached) = permit.take(&[&self.limiter], pending.caller()) {
                    let denied = pending.hold_back(reached.why);
                    return Err(Denial::held_back(denied, Some(reached.retry_after)));
                }
                let judged = self.judge_body(rules, pending, body.take()).await;
                (judged.map_err(denial)?, true)
            }
            Decision::Deny(denied) => return Err(denial(Box::new(denied))),
        };
        let passage = match self.gate.pass(rules.id(allowed.rule())) {
            Ok(passage) => passage,
            Err(shut) => return Err(Denial::held_back(allowed.hold_back(shut.why), shut.wait())),
        };
        let of_rule = &route_of(rules, &allowed).limiter;
        let left: &[&Limiter] = match caller_passed {
            true => &[of_rule],
            false => &[&self.limiter, of_rule],
        };
        if let Err(reached) = permit.take(left, allowed.caller()) {
            let denied = allowed.hold_back(reached.why);
            return Err(Denial::held_back(denied, Some(reached.retry_after)));
        }
        Ok((allowed, Places { passage, permit }))
    }

    /// Decides again, with the whole body.
    async fn judge_body(
        &self,
        rules: &Arc<Rules>,
        pending: Pending,
        body: Option<Incoming>,
    ) -> Result<Allowed, Box<Denied>> {
        let kept = match body {
            Some(body) => self.bodies.keep(body).await,
            None => Ok(Bytes::new()),
        };
        match kept {
            Ok(bytes) => {
                let rules = Arc::clone(rules);
                // Some megabytes take a while, and this thread carries others' requests.
                let judging = spawn_blocking(move || rules.set.decide_with_body(pending, bytes));
                judging
                    .await
                    .expect("judging neither panics nor is cancelled")
            }
            Err(why) => Err(Box::new(pending.deny(why))),
        }
    }

    async fn refuse_ambiguous(
        &self,
        method: &Method,
        raw: &str,
        why: Ambiguous,
        caller: &str,
        context: &DecisionContext,
    ) -> Refusal {
        // Query values may be secrets of the caller's.
        let path = raw.split('?').next().unwrap_or_default();
        self.board
            .denied(&context.request_id, method.as_str(), path, why.code(), None);
        let refused = RefusedRequest {
            caller,
            method: method.as_str(),
            raw: raw.as_bytes(),
            why: &why,
        };
        match self.audit.record_refused(refused, context).await {
            Ok(()) => Refusal::Ambiguous(why),
            Err(error) => Refusal::Audit(error),
        }
    }

    fn note_denial(&self, denial: &Denial, context: &DecisionContext) {
        let Denial {
            denied, nearest, ..
        } = denial;
        let (method, path, reason) = (
            denied.target().method(),
            denied.target().path(),
            denied.reason().code(),
        );
        let nearest = nearest.as_ref().map(ToString::to_string);
        tracing::info!(request_id = %context.request_id, %method, path, reason, nearest, "denied");
        self.board
            .denied(&context.request_id, method.as_str(), path, reason, nearest);
    }

    /// Injects the credential, sends the request, and gives back the origin's answer.
    async fn forward(
        &self,
        rules: &Rules,
        recorded: Recorded<Allowed>,
        places: Places,
        removed: Removed,
        mut incoming: Option<Incoming>,
        context: &DecisionContext,
    ) -> Response<AnswerBody> {
        let passage = &places.passage;
        let allowed = recorded.get();
        let route = route_of(rules, allowed);
        let query = allowed.target().query().map(str::to_owned);
        let (outgoing, mut slot) = Outgoing::new(recorded, &route.origin);
        let mut outgoing = match outgoing {
            Ok(outgoing) => outgoing,
            Err(error) => return self.failed(&error, slot, route, context),
        };
        slot.outcome().removed_request_headers = removed;
        let prepared = async {
            if route.credential.as_ref().is_some_and(Credential::signs) {
                let body = incoming.take();
                outgoing.prepare_to_sign(body, &self.bodies).await?;
            }
            outgoing.inject(route, slot.outcome()).await
        };
        let prepared = tokio::select! {
            biased;
            shut = passage.cut() => Err(OriginError::Paused(shut)),
            prepared = prepared => prepared,
        };
        let mut version = match prepared {
            Ok(version) => version,
            Err(error) => return self.failed(&error, slot, route, context),
        };
        self.note_credential(version.as_ref(), slot.outcome());

        let (body, mut upload) = match (outgoing.take_body(), incoming) {
            (Some(bytes), _) => UploadBody::whole(bytes),
            (None, Some(incoming)) => UploadBody::new(incoming, || outgoing.header_names()),
            (None, None) => UploadBody::whole(Bytes::new()),
        };
        let is_repeatable = outgoing.is_repeatable(&body);
        let mut answer = send(&outgoing, body, &upload, route, passage, slot.outcome()).await;
        slot.outcome().bytes_up = upload.bytes();
        if let Some(credential) = route.credential.as_ref().filter(|it| it.signs())
            && has_status(&answer, StatusCode::FORBIDDEN)
        {
            // So do these services answer keys that were revoked, beside much else: nothing is repeated for it.
            credential.renew_soon();
        }
        if let (Some(refused), true) = (&version, has_status(&answer, StatusCode::UNAUTHORIZED))
            && let Some(renewed) = renewed(route, refused, is_repeatable).await
        {
            self.note_credential(Some(&renewed), slot.outcome());
            slot.outcome().renewed = true;
            outgoing.replace_credential(&renewed);
            version = Some(renewed);
            let (body, again) = UploadBody::whole(Bytes::new());
            upload = again;
            answer = send(&outgoing, body, &upload, route, passage, slot.outcome()).await;
        }
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                upload.answered();
                return self.failed(&error, slot, route, context);
            }
        };

        let (mut head, incoming) = response.into_parts();
        let outcome = slot.outcome();
        outcome.status = Some(head.status.as_u16());
        if is_longer(&incoming, route.response_size) {
            upload.answered();
            return self.failed(&OriginError::TooLong, slot, route, context);
        }
        let beside_credential = route.acts_as_agent().then_some(&*route.kept.names);
        outcome.removed_response_headers =
            hop::remove_from_response(&mut head.headers, beside_credential);
        let watch = version.map(|version| {
            let (echo, headers) = (version.echo(), &mut head.headers);
            EchoWatch::begin(
                echo,
                headers,
                route.on_secret_echo,
                &context.request_id,
                outcome,
            )
        });
        outcome.location_passed = location::rewrite(&mut head.headers, &route.origin, &self.agent);
        let is_long_lived = is_long_lived(query.as_deref(), &head.headers);
        let idle = (!is_long_lived).then_some(route.timeouts.idle);
        head.extensions.clear();
        let body = OriginBody::new(
            incoming,
            idle,
            route.response_size,
            slot,
            upload,
            places,
            watch,
        );
        Response::from_parts(head, AnswerBody::Origin(Box::new(body)))
    }

    fn note_credential(&self, version: Option<&CredentialVersion>, outcome: &mut Outcome) {
        outcome.credential = version.map(|version| version.fingerprint(&self.fingerprints));
    }

    /// The origin gave no answer: says so to the caller without naming the origin, to the log with its cause.
    fn failed(
        &self,
        error: &OriginError,
        mut slot: OutcomeSlot,
        route: &Route,
        context: &DecisionContext,
    ) -> Response<AnswerBody> {
        let code = error.code();
        slot.outcome().error = Some(code);
        slot.finish(match error {
            OriginError::NoAnswer(_) | OriginError::UploadStalled(_) => Ended::TimedOut,
            OriginError::Unreachable(_) | OriginError::Protocol(_) => Ended::OriginFailed,
            OriginError::CallerGone => Ended::CallerGone,
            OriginError::TooLong => Ended::TooLong,
            OriginError::Paused(_) => Ended::Paused,
            OriginError::Unsendable
            | OriginError::NoCredential(_)
            | OriginError::Unsignable(_)
            | OriginError::NoPlace
            | OriginError::BodyTooLarge { .. } => Ended::NotSent,
        });
        tracing::warn!(request_id = %context.request_id, origin = %route.origin, %error, "no answer from the origin");
        let detail = match error {
            OriginError::Unreachable(_) => "the agent's log says why, under this request id".into(),
            OriginError::NoAnswer(_)
            | OriginError::UploadStalled(_)
            | OriginError::TooLong
            | OriginError::Unsignable(_)
            | OriginError::NoPlace
            | OriginError::BodyTooLarge { .. } => error.to_string(),
            OriginError::NoCredential(_) => {
                "the agent's owner sees why in `broker-client status` and in the agent's log".into()
            }
            OriginError::Paused(_) => PAUSED.into(),
            OriginError::Protocol(_) | OriginError::CallerGone | OriginError::Unsendable => {
                "the agent's log says more, under this request id".into()
            }
        };
        let problem = self.problem(code, context).detail(detail);
        match error {
            OriginError::Paused(shut) => shut.tell(problem).into_response(),
            _ => problem.into_response(),
        }
    }

    fn refuse(&self, refusal: Refusal, context: &DecisionContext) -> Response<AnswerBody> {
        let problem = match refusal {
            Refusal::Ambiguous(why) => self
                .problem(why.error_code(), context)
                .detail(why.to_string())
                .with("reason", why.code()),
            Refusal::Denied(denial) => {
                denial.tell(self.problem(denial.code(), context), &self.explaining)
            }
            Refusal::Audit(error) => {
                tracing::error!(request_id = %context.request_id, %error, "refused, because it cannot be recorded");
                self.problem(ErrorCode::AuditUnavailable, context)
                    .detail("no request passes that cannot be put on record")
            }
        };
        problem.into_response()
    }

    fn problem(&self, code: ErrorCode, context: &DecisionContext) -> Problem {
        Problem::new(code)
            .request_id(&context.request_id)
            .with("agent", self.agent.as_str())
    }
}

/// Where the rule leads that allows it.
fn route_of<'r>(rules: &'r Rules, allowed: &Allowed) -> &'r Route {
    rules
        .route(allowed.rule())
        .expect("every rule of a set has its route")
}

/// Whether an answer says of itself that it has more bytes than it may.
fn is_longer(body: &Incoming, most: Option<NonZeroU64>) -> bool {
    most.is_some_and(|most| body.size_hint().lower() > most.get())
}

/// Sends it to the route's origin, within its limits.
async fn send(
    outgoing: &Outgoing,
    body: UploadBody,
    upload: &Upload,
    route: &Route,
    passage: &Passage,
    outcome: &mut Outcome,
) -> Result<Response<Incoming>, OriginError> {
    let limits = route.timeouts;
    tokio::select! {
        biased;
        shut = passage.cut() => Err(OriginError::Paused(shut)),
        answer = outgoing.send(&route.client, body, outcome) => answer,
        error = upload.out_of_time(limits.first_byte, limits.idle) => Err(error),
    }
}

fn has_status(answer: &Result<Response<Incoming>, OriginError>, status: StatusCode) -> bool {
    matches!(answer, Ok(response) if response.status() == status)
}

/// The origin refused the credential: asks for a newer one, and gives it back where the request may be repeated with it.
async fn renewed(
    route: &Route,
    refused: &CredentialVersion,
    is_repeatable: bool,
) -> Option<CredentialVersion> {
    let credential = route.credential.as_ref()?;
    if !is_repeatable {
        credential.renew_soon();
        return None;
    }
    credential.renewed(refused).await
}
