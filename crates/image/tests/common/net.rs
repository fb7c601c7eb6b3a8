//! A network of one's own for a test: addresses of every class, none of them anybody's.

use std::process::Command;

/// Runs `body` on a thread in a new network namespace with these addresses on its loopback; threads it starts are there too.
pub fn in_own_network(addresses: &[&str], body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: only the network namespace is unshared; descriptors stay shared, as the function demands.
            #[allow(unsafe_code, reason = "the safe wrapper is deprecated")]
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            ip(&["link", "set", "lo", "up"]);
            for address in addresses {
                ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
            }
            body();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(arguments: &[&str]) {
    assert!(
        Command::new("ip").args(arguments).status().unwrap().success(),
        "ip {arguments:?}"
    );
}
