//! The API over real sockets, with a real store and the simulated engine.

mod device_page;
mod dry_run;
mod gate;
mod oidc;
mod people;
#[path = "../../../client/examples/tour.rs"]
mod tour;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::{CreateApp, CreateRelease, CreateToken, OperationState, PatchEnv, PutScale, ReleaseSource, Role};
use client::{Address, Client, Next, Place};
use control::planted::Turn;
use control::routes::{EdgeLink, RouteTable};
use control::{Control, Parts, Settings};
use model::InstanceId;
use serde_json::{Value, json};

struct NoEdge;
impl EdgeLink for NoEdge {
    fn publish(&self, _: &RouteTable) -> Result<(), String> {
        Ok(())
    }
    fn busy(&self, _: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String> {
        Ok(BTreeSet::new())
    }
    fn requests(&self) -> Result<Vec<control::routes::Requests>, String> {
        Ok(Vec::new())
    }
    fn generation(&self) -> u64 {
        1
    }
}

/// A whole server below a directory of its own.
struct World {
    running: Option<server::Running>,
    control: Arc<Control>,
    parts: Parts,
    engine: Arc<engine::simulated::Simulated>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    /// Where backups are also written to.
    elsewhere: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    reconciler: Option<std::thread::JoinHandle<()>>,
    _turn: Turn,
}

impl World {
    fn new() -> Self {
        Self::with_rate(server::REQUESTS_PER_MINUTE)
    }

    /// With a bound of its own on requests.
    fn with_rate(rate: u32) -> Self {
        Self::within(Turn::beside_others(), rate)
    }

    /// For a test that plants defects, with no bound on requests.
    fn alone() -> Self {
        Self::within(Turn::alone(), 0)
    }

    fn within(turn: Turn, rate: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let run = dir.path().join("run");
        std::fs::create_dir_all(&run).expect("run");
        let store_path = dir.path().join("store.db");
        let master =
            store::MasterKey::load_or_create(&dir.path().join("master.key"), &store_path).expect("a key");
        let now = store::Now {
            wall_ms: model::Timestamp::now().as_ms(),
            mono_ms: 0,
        };
        let engine = Arc::new(engine::simulated::Simulated::new());
        let parts = Parts::new(
            Arc::new(store::Store::open(&store_path, &master, now).expect("a store")),
            Arc::clone(&engine) as Arc<dyn engine::Engine>,
            Arc::new(NoEdge),
            Settings::new(dir.path().to_owned()),
        );
        let control = Arc::new(Control::new(parts.clone()));
        control::places::found(&control).expect("founded");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("an address");
        let local = UnixListener::bind(dir.path().join(api::LOCAL_SOCKET)).expect("a socket");
        let about = server::About {
            version: "test".to_owned(),
            listeners: [("api".to_owned(), address.to_string())].into(),
            requests_per_minute: rate,
        };
        let running = server::start(tcp, local, Arc::clone(&control), about).expect("started");
        Self {
            running: Some(running),
            control,
            parts,
            engine,
            address,
            dir,
            elsewhere: tempfile::tempdir().expect("a directory"),
            stop: Arc::default(),
            reconciler: None,
            _turn: turn,
        }
    }

    /// With reconcilers that bring things about.
    fn alive() -> Self {
        let mut world = Self::new();
        let (control, stop) = (Arc::clone(&world.control), Arc::clone(&world.stop));
        world.reconciler = Some(std::thread::spawn(move || {
            control::reconcile::Reconciler::new(control).run(&stop);
        }));
        world
    }

    fn root(&self) -> Client {
        let path = self.dir.path().join(api::LOCAL_SOCKET);
        Client::new(Address::Unix(path), None, None).expect("a client")
    }

    /// Root who shows a token.
    fn root_with(&self, token: &str) -> Client {
        let path = self.dir.path().join(api::LOCAL_SOCKET);
        Client::new(Address::Unix(path), Some(token.to_owned()), None).expect("a client")
    }

    fn with(&self, token: &str) -> Client {
        let address = format!("http://{}", self.address).parse().expect("an address");
        Client::new(address, Some(token.to_owned()), None).expect("a client")
    }

    /// A client with a fresh token of that role.
    fn of(&self, role: Role) -> Client {
        self.with(&self.token(role))
    }

    fn token(&self, role: Role) -> String {
        let body = CreateToken {
            name: format!("{role:?}"),
            role,
            org: None,
            scopes: None,
            lifetime_s: None,
        };
        self.root().token_create(&body).expect("a token").token
    }

    /// Bytes in, bytes out: what a client of ours would never send.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a bound");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status");
        (status, answer)
    }

    fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}{length}\r\n{body}"
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.running.take());
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reconciler) = self.reconciler.take() {
            reconciler.join().expect("no panic in the reconciler");
        }
    }
}

fn now() -> store::Now {
    store::Now {
        wall_ms: model::Timestamp::now().as_ms(),
        mono_ms: 0,
    }
}

fn place() -> Place {
    Place {
        org: "default".to_owned(),
        project: "default".to_owned(),
        environment: "production".to_owned(),
    }
}

fn app(name: &str) -> CreateApp {
    CreateApp {
        name: name.to_owned(),
    }
}

fn claim_of(token: &str) -> api::Claim {
    api::Claim {
        token: token.to_owned(),
        email: None,
        name: None,
        password: None,
    }
}

fn problem<T: std::fmt::Debug>(result: Result<T, client::Error>) -> api::Problem {
    match result {
        Err(client::Error::Problem(problem)) => *problem,
        other => panic!("not a problem: {other:?}"),
    }
}

/// Every operation of the document with its path filled in by `value`.
fn operations(value: impl Fn(&str) -> String) -> Vec<(String, String, Value)> {
    let paths = api::document::document()["paths"].as_object().expect("paths");
    let mut all = Vec::new();
    for (path, item) in paths {
        let filled: Vec<String> = path
            .split('/')
            .map(
                |segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                    Some(name) => value(name),
                    None => segment.to_owned(),
                },
            )
            .collect();
        for (method, operation) in item.as_object().expect("an item") {
            all.push((method.to_uppercase(), filled.join("/"), operation.clone()));
        }
    }
    assert!(all.len() > 40, "the document is empty?");
    all
}

#[test]
fn nobody_gets_in_without_a_credential() {
    let world = World::new();
    for (method, path, operation) in operations(|_| "default".to_owned()) {
        let is_open = operation["security"] == json!([]);
        for headers in [
            "",
            "authorization: Bearer stoa_pat_0000000000000000000000000000000000000000000000000000000000000000\r\n",
            "authorization: Basic cm9vdDpyb290\r\n",
            "authorization: Bearer\r\n",
            "cookie: token=stoa_pat_x\r\n",
        ] {
            let (status, answer) = world.call(&method, &path, headers, "");
            if is_open {
                // Nobody looks at a header there; claiming without a body is a bad request, and there is no provider.
                assert!(
                    matches!(status, 200 | 400 | 401 | 404 | 415 | 422),
                    "{method} {path}: {answer}"
                );
            } else {
                assert_eq!(status, 401, "{method} {path} {headers}: {answer}");
                assert!(
                    answer.contains("application/problem+json") && answer.contains("www-authenticate"),
                    "{answer}"
                );
            }
            for header in [
                "x-request-id: req_",
                "cache-control: no-store",
                "x-content-type-options: nosniff",
                "frame-ancestors 'none'",
                "x-frame-options: DENY",
            ] {
                assert!(
                    answer.contains(header),
                    "{method} {path} lacks {header}: {answer}"
                );
            }
        }
    }
}

#[test]
fn the_foreign_and_the_absent_look_alike() {
    let world = World::new();
    let org = model::Org {
        id: model::OrgId::fresh(),
        name: "other".parse().expect("a name"),
    };
    let now = store::Now {
        wall_ms: model::Timestamp::now().as_ms(),
        mono_ms: 0,
    };
    world
        .parts
        .store
        .write(now, |tx| tx.insert(&org).map(drop))
        .expect("an org");
    let root = world.root();
    root.app_create(&place(), &app("shop")).expect("an app");
    let body = CreateToken {
        name: "stranger".to_owned(),
        role: Role::Owner,
        org: Some("other".to_owned()),
        scopes: None,
        lifetime_s: None,
    };
    let token = root.token_create(&body).expect("a token").token;
    let header = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let strip = |answer: &str, org: &str| {
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
        let mut value: Value = serde_json::from_str(&body).expect("a problem");
        value["request_id"] = json!("");
        value.to_string().replace(org, "ORG")
    };
    for (method, path, _) in operations(|name| {
        if name == "org" {
            "ORG".to_owned()
        } else {
            "default".to_owned()
        }
    }) {
        if !path.contains("ORG") {
            continue;
        }
        let foreign = world.call(&method, &path.replace("ORG", "default"), &header, "");
        let absent = world.call(&method, &path.replace("ORG", "nothere"), &header, "");
        assert_eq!(
            (foreign.0, absent.0),
            (404, 404),
            "{method} {path}: {}",
            foreign.1
        );
        assert_eq!(
            strip(&foreign.1, "default"),
            strip(&absent.1, "nothere"),
            "{method} {path}"
        );
    }
    let stranger = world.with(&token);
    assert_eq!(stranger.orgs().expect("orgs").len(), 1);
    assert_eq!(problem(stranger.app(&place(), "shop")).code, "not_found");
}

#[test]
fn roles_are_obeyed_before_content_is_looked_at() {
    let world = World::new();
    let viewer = world.of(Role::Viewer);
    world.root().app_create(&place(), &app("shop")).expect("an app");
    assert_eq!(viewer.app(&place(), "shop").expect("seen").name, "shop");
    for (path, body) in [
        ("apps", "{\"nonsense\": 1}"),
        ("apps/shop/releases", "[]"),
        ("apps/shop/run", ""),
    ] {
        let path = format!("/v1/orgs/default/projects/default/environments/production/{path}");
        let answer = viewer.raw("POST", &path, Some(body.into())).expect("an answer");
        assert_eq!(answer.status, 403, "{path}");
    }
    // What is not there is not there, whatever one may do.
    assert_eq!(problem(viewer.app_restart(&place(), "nothing")).status, 404);
    assert_eq!(problem(viewer.tokens()).status, 403);
    let developer = world.of(Role::Developer);
    let body = CreateToken {
        name: "x".to_owned(),
        role: Role::Owner,
        org: None,
        scopes: None,
        lifetime_s: None,
    };
    assert_eq!(problem(developer.token_create(&body)).status, 403);
    let admin = world.of(Role::Admin);
    assert_eq!(
        problem(admin.token_create(&body)).status,
        403,
        "an admin makes no owner"
    );
}

#[test]
fn odd_requests_get_problems() {
    let world = World::new();
    let base = "/v1/orgs/default/projects/default/environments/production";
    let root = world.root();
    let post = |path: &str, body: &str| {
        let answer = root
            .raw("POST", &format!("{base}/{path}"), Some(body.into()))
            .expect("an answer");
        let problem: api::Problem = serde_json::from_slice(&answer.body).expect("a problem");
        assert_eq!(answer.media_type, "application/problem+json");
        (
            problem.status,
            problem.code,
            problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>(),
        )
    };
    let refused = |status: u16, code: &str, at: &[&str]| {
        (
            status,
            code.to_owned(),
            at.iter().map(|at| (*at).to_owned()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(post("apps", "{"), refused(400, "bad_request", &[]));
    assert_eq!(post("apps", "[\"shop\"]"), refused(422, "invalid", &[""]));
    assert_eq!(
        post("apps", "{\"name\":7,\"role\":\"owner\"}"),
        refused(422, "invalid", &["/name", "/role"])
    );
    assert_eq!(
        post("apps?dry=1", "{\"name\":\"shop\"}"),
        refused(422, "invalid", &["?dry"])
    );
    assert_eq!(
        post("apps?token=stoa_pat_x", "{\"name\":\"shop\"}"),
        refused(422, "invalid", &["?token"])
    );
    assert_eq!(
        post("databases", "{\"name\":\"main\",\"size_bytes\":1.5}"),
        refused(422, "invalid", &["/size_bytes"])
    );
    assert_eq!(post("apps/shop", "{}").0, 405);
    assert_eq!(post("nothing", "{}").0, 404);
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(post("apps", &large), refused(413, "too_large", &[]));
    let token = root
        .token_create(&CreateToken {
            name: "x".to_owned(),
            role: Role::Owner,
            org: None,
            scopes: None,
            lifetime_s: None,
        })
        .expect("a token")
        .token;
    let header = format!("authorization: Bearer {token}\r\n");
    assert_eq!(
        world
            .call("POST", &format!("{base}/apps"), &header, "{\"name\":\"shop\"}")
            .0,
        415
    );
    assert_eq!(
        world
            .call("GET", &format!("/v1/server?access_token={token}"), "", "")
            .0,
        401
    );
    let (status, answer) = world.call("DELETE", "/v1/whoami", &header, "");
    assert!(status == 405 && answer.contains("allow: GET"), "{answer}");
    for path in [
        "/",
        "/v1",
        "/v1/server/",
        "/v1//server",
        "/V1/SERVER",
        "/v1/%2e%2e/healthz",
        "/admin",
    ] {
        assert_eq!(world.call("GET", path, &header, "").0, 404, "{path}");
    }
    let exec = world.call("POST", &format!("{base}/databases/main/exec"), &header, "");
    assert_eq!(exec.0, 404, "a database that is not there");
}

#[test]
fn generations_and_keys_protect_changes() {
    let world = World::new();
    let root = world.root();
    root.app_create(&place(), &app("shop")).expect("an app");
    assert_eq!(
        problem(root.app_create(&place(), &app("shop"))).code,
        "name_taken"
    );
    let token = root
        .token_create(&CreateToken {
            name: "x".to_owned(),
            role: Role::Owner,
            org: None,
            scopes: None,
            lifetime_s: None,
        })
        .expect("a token")
        .token;
    let base = "/v1/orgs/default/projects/default/environments/production";
    let header = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let (_, seen) = world.call("GET", &format!("{base}/apps/shop"), &header, "");
    let etag = seen
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .expect("an ETag")
        .to_owned();
    let patch = |etag: &str| {
        let header = format!("{header}if-match: {etag}\r\n");
        world
            .call(
                "PATCH",
                &format!("{base}/apps/shop/env"),
                &header,
                "{\"set\":{\"A\":\"1\"}}",
            )
            .0
    };
    assert_eq!(patch("7"), 400);
    assert_eq!(patch(&etag), 200);
    assert_eq!(patch(&etag), 412, "it was changed by ourselves");
    assert_eq!(patch("*"), 200);

    let post = |key: &str, name: &str| {
        let header = format!("{header}idempotency-key: {key}\r\n");
        let (status, answer) = world.call(
            "POST",
            &format!("{base}/apps"),
            &header,
            &format!("{{\"name\":\"{name}\"}}"),
        );
        (
            status,
            answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned(),
        )
    };
    let first = post("k1", "blog");
    assert_eq!(first.0, 201);
    assert_eq!(post("k1", "blog"), first, "the same answer, no second effect");
    assert_eq!(post("k1", "other").0, 422);
    assert_eq!(post("k2", "blog").0, 409);
    assert_eq!(post("k3", "Bad").0, 422);
    assert_eq!(post("k3", "good").0, 201, "a refused request leaves its key free");
    assert_eq!(root.apps(&place()).expect("apps").len(), 3);
}

#[test]
fn tokens_end_at_once() {
    let world = World::new();
    let claim = control::people::offer_claim(&world.control)
        .expect("offered")
        .expect("unclaimed");
    let nobody = world.with("stoa_pat_x");
    assert_eq!(problem(nobody.claim(&claim_of("wrong"))).code, "sign_in");
    let owner = world.with(&nobody.claim(&claim_of(&claim)).expect("claimed").token);
    assert_eq!(
        problem(nobody.claim(&claim_of(&claim))).code,
        "sign_in",
        "a claim works once"
    );
    assert_eq!(owner.whoami().expect("an owner").role, Role::Owner);
    let issued = owner
        .token_create(&CreateToken {
            name: "ci".to_owned(),
            role: Role::Viewer,
            org: None,
            scopes: None,
            lifetime_s: Some(3600),
        })
        .expect("a token");
    let viewer = world.with(&issued.token);
    assert_eq!(
        viewer.whoami().expect("a viewer").token_name.as_deref(),
        Some("ci")
    );
    // What the door refuses is recorded as well, but not each question about what is not there.
    assert_eq!(problem(viewer.users()).code, "denied");
    assert_eq!(problem(viewer.app(&place(), "absent")).code, "not_found");
    assert_eq!(problem(viewer.app_delete(&place(), "absent")).code, "not_found");
    let refused: Vec<(String, String)> = owner
        .audit()
        .expect("the audit log")
        .into_iter()
        .filter(|row| row.decision == "refused" && row.actor.contains(&issued.about.id))
        .map(|row| (row.action, row.object))
        .collect();
    let told = |action: &str, object: &str| (action.to_owned(), object.to_owned());
    assert_eq!(
        refused,
        [
            told("app.delete", "default/default/production/absent"),
            told("user.list", "")
        ]
    );
    assert!(owner.audit_verify().expect("a verdict").whole);
    let mut events = viewer
        .events(&api::endpoints::EVENT_WATCH, &[], &[])
        .expect("a stream");
    owner.token_delete(&issued.about.id).expect("revoked");
    assert_eq!(problem(viewer.whoami()).code, "sign_in");
    // The open stream ends too; what it said before is passed over.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(
            Instant::now() < deadline,
            "the stream of a revoked token is still open"
        );
        match events.next(Duration::from_millis(200)) {
            Ok(Next::End) | Err(_) => break,
            Ok(Next::Frame(_) | Next::Nothing) => {}
        }
    }
    assert!(
        owner
            .audit()
            .expect("the audit log")
            .iter()
            .any(|row| row.action == "token.revoke")
    );
    assert!(!format!("{:?}", owner.tokens().expect("tokens")).contains("stoa_pat_"));
}

#[test]
fn lists_come_in_pages() {
    let world = World::new();
    let root = world.root();
    for number in 0..7 {
        root.app_create(&place(), &app(&format!("app-{number}")))
            .expect("an app");
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let mut query = vec![("limit", "3")];
        if !token.is_empty() {
            query.push(("page_token", token.as_str()));
        }
        let path = ["default", "default", "production"];
        let page: api::AppPage = root
            .call(&api::endpoints::APP_LIST, &path, &query, None::<&()>)
            .expect("a page");
        assert!(page.items.len() <= 3);
        names.extend(page.items.into_iter().map(|app| app.name));
        if page.next_page.is_empty() {
            break;
        }
        token = page.next_page;
    }
    assert_eq!(names, (0..7).map(|n| format!("app-{n}")).collect::<Vec<_>>());
    // What was altered, or given for another list, is refused; what was given for this one is not.
    let altered = format!("9{token}");
    let list = |endpoint, token: &str| -> u16 {
        let path = ["default", "default", "production"];
        let query = [("limit", "3"), ("page_token", token)];
        match root.call::<Value>(endpoint, &path, &query, None::<&()>) {
            Ok(_) => 200,
            refused => problem(refused).status,
        }
    };
    assert_eq!(list(&api::endpoints::APP_LIST, &token), 200);
    assert_eq!(list(&api::endpoints::APP_LIST, &altered), 422);
    assert_eq!(list(&api::endpoints::APP_LIST, "3.app-2"), 422, "without a seal");
    assert_eq!(list(&api::endpoints::DATABASE_LIST, &token), 422);
    assert_eq!(list(&api::endpoints::OPERATION_LIST, &token), 422);
    let wrong: Result<api::AppPage, _> = root.call(
        &api::endpoints::APP_LIST,
        &["default", "default", "production"],
        &[("page_token", "nonsense")],
        None::<&()>,
    );
    assert_eq!(problem(wrong).errors[0].pointer, "?page_token");
}

#[test]
fn changes_are_watched_and_resumed() {
    let world = World::new();
    let root = world.root();
    let watch = |since: &str| {
        let query: Vec<(&str, &str)> = if since.is_empty() {
            vec![]
        } else {
            vec![("since", since)]
        };
        root.events(&api::endpoints::EVENT_WATCH, &[], &query)
    };
    let created = |events: &mut client::Events<'_>, wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "no event for {wanted}");
            if let Next::Frame(frame) = events.next(Duration::from_millis(200)).expect("open") {
                let event: api::Event = serde_json::from_str(&frame.data).expect("an event");
                assert_eq!(frame.id.as_deref(), Some(event.revision.to_string().as_str()));
                if event.kind == "app" && event.name == wanted {
                    return event;
                }
            }
        }
    };
    let mut events = watch("").expect("a stream");
    root.app_create(&place(), &app("one")).expect("an app");
    let one = created(&mut events, "one");
    assert_eq!(one.change, "insert");
    root.app_create(&place(), &app("two")).expect("an app");
    created(&mut events, "two");
    drop(events);
    let mut resumed = watch(&one.revision.to_string()).expect("a stream");
    created(&mut resumed, "two");
    // Who has seen nothing yet knows all the same where to go on from.
    let mut quiet = watch("").expect("a stream");
    let deadline = Instant::now() + Duration::from_secs(60);
    while quiet.position().is_none() {
        assert!(Instant::now() < deadline, "no position");
        quiet.next(Duration::from_millis(200)).expect("open");
    }
    let position = quiet.position().map(str::to_owned).expect("a position");
    drop(quiet);
    root.app_create(&place(), &app("three")).expect("an app");
    let three = created(&mut watch(&position).expect("a stream"), "three");
    // Without following, all that is kept is told, of one kind when so asked, and the stream ends.
    let told = |since: &str| -> Vec<String> {
        let query = [("since", since), ("follow", "false"), ("kind", "app")];
        let mut events = root.events_watch(&query).expect("a stream");
        let mut names = Vec::new();
        loop {
            match events.next(Duration::from_secs(60)).expect("open") {
                Next::Frame(frame) => {
                    let event: api::Event = serde_json::from_str(&frame.data).expect("an event");
                    assert_eq!(event.kind, "app");
                    names.push(event.name);
                }
                Next::End => return names,
                Next::Nothing => panic!("it does not end"),
            }
        }
    };
    assert_eq!(told("0"), ["one", "two", "three"]);
    assert_eq!(told(&one.revision.to_string()), ["two", "three"]);
    let keep = world.parts.store.rev() - three.revision + 1;
    let compact = || -> u64 {
        let done = world
            .parts
            .store
            .write(now(), |tx| tx.compact(keep, now().wall_ms));
        done.expect("compacted")
    };
    while compact() > 0 {}
    assert_eq!(told("0"), ["three"], "from the oldest that is kept");
    assert_eq!(problem(watch("1").map(drop)).code, "compacted");
    assert_eq!(problem(watch("yesterday").map(drop)).status, 422);
}

#[test]
fn a_release_is_made_followed_and_scaled() {
    let world = World::alive();
    let root = world.root();
    root.app_create(&place(), &app("shop")).expect("an app");
    let unsent = CreateRelease {
        source: ReleaseSource::Unsent {},
        manifest: Some("schema = 1\napp = \"shop\"\n[services.web]\nsecrets = [\"KEY\"]\n".to_owned()),
    };
    let plan = root.release_plan(&place(), "shop", &unsent).expect("foretold");
    assert_eq!(
        (plan.release.as_str(), plan.serving, plan.obstacles.len()),
        ("v1", None, 1)
    );
    assert_eq!(
        problem(root.release_create(&place(), "shop", &unsent)).status,
        422
    );
    assert!(
        root.operations(&place(), 10).expect("operations").is_empty(),
        "nothing was begun"
    );
    let body = CreateRelease {
        source: ReleaseSource::Image {
            image: "nothere:1".to_owned(),
        },
        manifest: None,
    };
    let operation = root.release_create(&place(), "shop", &body).expect("accepted");
    let settled = wait(&root, &operation.id);
    assert_eq!(settled.state, OperationState::Failed, "{settled:?}");
    assert!(
        settled
            .error
            .is_some_and(|error| !error.message.is_empty() && !error.next_step.is_empty())
    );
    let mut log = root.operation_log_follow(&operation.id, "").expect("a log");
    let mut lines = Vec::new();
    loop {
        match log.next(Duration::from_secs(1)).expect("open") {
            Next::Frame(frame) if frame.event.as_deref() == Some("end") => break,
            Next::Frame(frame) => lines.push(frame.data),
            Next::Nothing => {}
            Next::End => panic!("the stream ended without its end frame"),
        }
    }
    assert!(!lines.is_empty());
    assert_eq!(
        root.operation_log(&operation.id).expect("a log").lines.len(),
        lines.len()
    );
    assert_eq!(root.operations(&place(), 10).expect("operations").len(), 1);
    assert_eq!(problem(root.operation_cancel(&operation.id)).code, "state");
    let scale = PutScale {
        services: [("web".to_owned(), 2)].into(),
    };
    assert_eq!(problem(root.app_scale(&place(), "shop", &scale)).code, "state");
    assert_eq!(
        problem(root.app_rollback(&place(), "shop", &api::Rollback::default())).code,
        "state"
    );
    let patch = PatchEnv {
        set: [("A".to_owned(), "1".to_owned())].into(),
        unset: vec![],
    };
    assert_eq!(
        root.app_env_update(&place(), "shop", &patch)
            .expect("set")
            .operation,
        None
    );
    assert_eq!(root.app_env(&place(), "shop").expect("env").env["A"], "1");
    let bad = CreateRelease {
        source: ReleaseSource::Image {
            image: "x".to_owned(),
        },
        manifest: Some("schema = 1\napp = \"shop\"\nprot = 1\n".to_owned()),
    };
    let refused = problem(root.release_create(&place(), "shop", &bad));
    assert!(
        refused.status == 422 && refused.errors[0].pointer.contains("stoa.toml:3"),
        "{refused:?}"
    );
}

/// What `cargo run -p stoa-client --example tour` does.
#[test]
fn the_example_of_the_client_does_what_it_says() {
    let world = World::new();
    let told = tour::tour(&world.of(Role::Developer), &place(), "shop").expect("a tour");
    assert_eq!(told, "shop: insert, update, name_taken; 1 variable");
}

/// What the resources say that nobody asks for elsewhere: nodes, operations of everywhere, rollouts, filters.
#[test]
fn what_there_is_can_be_seen() {
    let world = World::new();
    let root = world.root();
    let get = |path: &str| -> (u16, Value) {
        let answer = root.raw("GET", path, None).expect("an answer");
        (
            answer.status,
            serde_json::from_slice(&answer.body).unwrap_or_default(),
        )
    };
    let (status, nodes) = get("/v1/nodes");
    let node = &nodes["items"][0];
    assert!(
        status == 200 && node["memory_bytes"].as_u64() > node["memory_available_bytes"].as_u64(),
        "{nodes}"
    );
    assert_eq!(
        get(&format!("/v1/nodes/{}", node["name"].as_str().expect("a name"))).0,
        200
    );
    assert_eq!(get("/v1/nodes/nothere").0, 404);
    root.app_create(&place(), &app("shop")).expect("an app");
    let base = "/v1/orgs/default/projects/default/environments/production";
    assert_eq!(
        get(&format!("{base}/apps/shop/rollout")).1["code"],
        "not_found",
        "it does not move"
    );
    assert_eq!(get(&format!("{base}/apps/shop/metrics")).1["requests"], json!([]));
    assert_eq!(get(&format!("{base}/volumes")).1["items"], json!([]));
    let database = api::CreateDatabase {
        engine: None,
        plan: None,
        name: "main".to_owned(),
        version: None,
        size_bytes: None,
        memory_bytes: None,
        backup_level: None,
        pooled: None,
    };
    let operation = root.database_create(&place(), &database).expect("accepted");
    let image = api::CreateImage {
        name: "base:1".to_owned(),
        source: api::ImageSource::Host {},
        org: None,
    };
    root.image_create(&image).expect("accepted");
    let all = |query: &str| -> usize {
        let items = get(&format!("/v1/operations{query}")).1["items"].clone();
        items.as_array().map_or(usize::MAX, Vec::len)
    };
    assert_eq!(
        (
            all(""),
            all("?work=image"),
            all("?work=create_database"),
            all("?state=failed")
        ),
        (2, 1, 1, 0)
    );
    let (_, first) = get("/v1/operations?limit=1");
    let next = first["next_page"].as_str().expect("a token").to_owned();
    let mut token = String::new();
    api::endpoint::escape_into(&mut token, &next);
    let (_, second) = get(&format!("/v1/operations?limit=1&page_token={token}"));
    assert_eq!(
        second["items"][0]["id"],
        json!(operation.id),
        "the older one comes later"
    );
    assert_eq!(second["next_page"], "");
    let viewer = world.of(Role::Viewer);
    let seen = viewer.raw("GET", "/v1/operations", None).expect("an answer");
    let seen: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(
        seen["items"].as_array().map(Vec::len),
        Some(1),
        "the image is the installation's business"
    );
    for (query, found) in [("", 1), ("?state=creating", 1), ("?state=active", 0)] {
        assert_eq!(
            get(&format!("{base}/databases{query}")).1["items"]
                .as_array()
                .map(Vec::len),
            Some(found)
        );
    }
}

/// Whatever is replaced, changed or removed may be asked to be what the caller has seen.
#[test]
fn changes_of_what_was_changed_meanwhile_are_refused() {
    for endpoint in api::endpoints::ALL {
        use api::Method::{Delete, Get, Patch, Post, Put};
        let needs = match endpoint.method {
            Put | Patch | Delete => !WITHOUT_IF_MATCH.contains(&endpoint.id),
            Get | Post => false,
        };
        assert!(
            endpoint.is_conditional || !needs,
            "{} does not heed If-Match",
            endpoint.id
        );
    }
    let (world, known) = dry_run::furnished();
    let token = world.token(Role::Owner);
    let base = "/v1/orgs/default/projects/default/environments/production";
    let ask = |method: &str, path: &str, tag: &str, body: &str| -> u16 {
        let tag =
            format!("authorization: Bearer {token}\r\nif-match: {tag}\r\ncontent-type: application/json\r\n");
        world.call(method, path, &tag, body).0
    };
    let secret = format!("{base}/apps/shop/secrets/KEY");
    let image = format!("/v1/images/{}", known["image"].replace(':', "%3A"));
    let other = format!("\"sha256:{}\"", "1".repeat(64));
    assert_eq!(ask("PUT", &secret, "\"9\"", "{\"value\": \"x\"}"), 412);
    assert_eq!(ask("PUT", &secret, "\"1\"", "{\"value\": \"x\"}"), 200);
    assert_eq!(ask("DELETE", &secret, "\"1\"", ""), 412);
    assert_eq!(ask("DELETE", &secret, "\"2\"", ""), 200);
    assert_eq!(ask("DELETE", &image, &other, ""), 412);
    assert_eq!(ask("DELETE", &image, "\"7\"", ""), 400);
    assert_eq!(
        ask("DELETE", &image, &format!("\"sha256:{}\"", "0".repeat(64)), ""),
        204
    );
}

/// They end one thing, or say one value that the caller knows whole: no change of others could be undone unseen.
const WITHOUT_IF_MATCH: &[&str] = &[
    "session_delete",
    "secret_update",
    "password_put",
    "token_delete",
    "user_delete",
    "user_role_put",
    "user_role_delete",
    "user_invitation_delete",
    "member_put",
    "member_delete",
    "invitation_delete",
    "project_member_put",
    "project_member_delete",
    "deploy_token_delete",
    "identity_delete",
];

fn wait(client: &Client, operation: &str) -> api::Operation {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let seen = client.operation_wait(operation, "5s").expect("an operation");
        if seen.state.is_settled() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{seen:?}");
    }
}

#[test]
fn uploads_are_kept_whole_or_not_at_all() {
    let world = World::new();
    let root = world.root();
    let mut file = tempfile::tempfile().expect("a file");
    let bytes = vec![7_u8; 3 << 20];
    file.write_all(&bytes).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let upload = root.upload(&place(), "application/x-tar", file).expect("kept");
    assert_eq!(upload.bytes, bytes.len() as u64);
    assert_eq!(upload.sha256.len(), 64);
    let kept = || {
        std::fs::read_dir(world.dir.path().join("uploads"))
            .expect("uploads")
            .count()
    };
    assert_eq!(kept(), 1);
    let token = root
        .token_create(&CreateToken {
            name: "x".to_owned(),
            role: Role::Developer,
            org: None,
            scopes: None,
            lifetime_s: None,
        })
        .expect("a token")
        .token;
    let path = "/v1/orgs/default/projects/default/environments/production/uploads";
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    let (status, answer) = world.raw(&format!("{head}content-length: 9999999999999\r\n\r\n"));
    assert_eq!(status, 413, "{answer}");
    // Half an archive, then silence of the other side.
    let mut stream = TcpStream::connect(world.address).expect("connected");
    stream
        .write_all(format!("{head}content-length: 1000\r\n\r\nhalf").as_bytes())
        .expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer or an end");
    let deadline = Instant::now() + Duration::from_secs(60);
    while kept() != 1 {
        assert!(Instant::now() < deadline, "the half upload is still there");
        std::thread::yield_now();
    }
}

/// Each credential has a bucket of its own; who shows none shares others, and root on the host has no bound.
#[test]
fn a_credential_may_ask_so_often_and_no_more() {
    let world = World::with_rate(5);
    let header = |token: String| format!("authorization: Bearer {token}\r\n");
    let (alice, bob) = (
        header(world.token(Role::Viewer)),
        header(world.token(Role::Viewer)),
    );
    let whoami = |headers: &str| world.call("GET", "/v1/whoami", headers, "");
    for left in (0..5).rev() {
        let (status, answer) = whoami(&alice);
        assert_eq!(status, 200, "{answer}");
        assert!(
            answer.contains("ratelimit-policy: \"credential\";q=5;w=60\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains(&format!("ratelimit: \"credential\";r={left};t=")),
            "{answer}"
        );
    }
    let (status, answer) = whoami(&alice);
    assert!(status == 429 && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("\"code\":\"rate_limited\""), "{answer}");
    // A flood of strangers takes from nobody who shows a right credential, and not from what needs none.
    let statuses: Vec<u16> = (0..10).map(|_| whoami("").0).collect();
    assert!(
        statuses.starts_with(&[401; 5]) && statuses.contains(&429),
        "{statuses:?}"
    );
    assert_eq!(whoami(&bob).0, 200);
    assert_eq!(world.call("GET", "/healthz", "", "").0, 200);
    for _ in 0..20 {
        world.root().whoami().expect("root has no bound");
    }
}

/// Strangers who hold every connection they can get do not shut the machine's owner out.
#[test]
fn strangers_do_not_shut_root_out() {
    let world = World::new();
    let strangers: Vec<TcpStream> = (0..520)
        .map(|_| TcpStream::connect(world.address).expect("connected"))
        .collect();
    // The last ones were beyond the bound: they are closed at once.
    let mut last = strangers.last().expect("one");
    last.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    assert_eq!(last.read(&mut [0]).unwrap_or(0), 0, "there is no bound");
    world.root().server().expect("root gets in");
    drop(strangers);
}

#[test]
fn the_open_endpoints_tell_what_they_should() {
    let world = World::new();
    for (path, wanted) in [
        ("/healthz", "\"ok\""),
        ("/readyz", "\"ok\""),
        ("/openapi.json", "\"3.1.0\""),
        ("/schema/stoa-1.json", "draft-07"),
        ("/docs", "<h3>Make a release and move the app to it</h3>"),
        (
            "/docs",
            "content-security-policy: default-src 'none'; style-src 'self'",
        ),
        ("/docs", "content-type: text/html"),
        ("/docs/style.css", "content-type: text/css"),
    ] {
        let (status, answer) = world.call("GET", path, "", "");
        assert!(status == 200 && answer.contains(wanted), "{path}: {answer}");
    }
    let root = world.root();
    let server = root.server().expect("a server");
    assert_eq!(
        (server.version.as_str(), server.domain.as_str()),
        ("test", "localhost")
    );
    let metrics = root.raw("GET", "/metrics", None).expect("metrics");
    let text = String::from_utf8(metrics.body).expect("text");
    assert!(
        text.contains("stoa_api_requests_total{endpoint=\"server_view\",status=\"200\"} 1"),
        "{text}"
    );
    assert_eq!(root.images().expect("images").len(), 0);
    assert_eq!(root.databases(&place()).expect("databases").len(), 0);
    assert_eq!(problem(root.image("nothere")).code, "not_found");
}
