//! The API with a real store and the simulated engine, for outside judges and clients under test:
//! `cargo run -p stoa-server --example door -- 127.0.0.1:7171` prints an owner's token and serves until its input ends.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use control::people::Wish;
use control::routes::{EdgeLink, RouteTable};
use control::{Control, Parts, Settings};
use model::{Actor, InstanceId, Role, Timestamp};

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let dir = tempfile::tempdir()?;
    std::fs::create_dir_all(dir.path().join("run"))?;
    let store_path = dir.path().join("store.db");
    let master = store::MasterKey::load_or_create(&dir.path().join("master.key"), &store_path)?;
    let now = store::Now {
        wall_ms: Timestamp::now().as_ms(),
        mono_ms: 0,
    };
    let control = Arc::new(Control::new(Parts::new(
        Arc::new(store::Store::open(&store_path, &master, now)?),
        Arc::new(engine::simulated::Simulated::new()),
        Arc::new(NoEdge),
        Settings::new(dir.path().to_owned()),
    )));
    control::places::found(&control)?;
    let (_, token) =
        control::people::create_token(&control, &Actor::System, &Wish::of("judge", Role::Owner), None)?;
    let tcp = std::net::TcpListener::bind(address)?;
    let local = UnixListener::bind(dir.path().join(api::LOCAL_SOCKET))?;
    println!(
        "http://{} {}",
        tcp.local_addr()?,
        token.expose_str().unwrap_or_default()
    );
    let about = server::About {
        version: "door".to_owned(),
        listeners: std::collections::BTreeMap::new(),
        requests_per_minute: server::REQUESTS_PER_MINUTE,
    };
    let running = server::start(tcp, local, Arc::clone(&control), about)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| control::reconcile::Reconciler::new(control).run(&stop));
        // Until whoever started us goes away.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        stop.store(true, Ordering::Relaxed);
    });
    running.stop();
    Ok(())
}
