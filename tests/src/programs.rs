//! Real programs that take part in a test: started, watched, and ended by their own process id.

mod broker;
mod child;
mod curl;
mod doctor;
mod forward_proxy;
mod nginx;
mod node_proxy;

pub use broker::{AgentProcess, ServerProcess, broker_command, broker_program, target_folder};
pub use child::{Child, Ending, Output};
pub use curl::{Curl, CurlAnswer};
pub use doctor::Doctor;
pub use forward_proxy::{ForwardProxy, NAME_BEHIND_PROXY, PROXY_PASSWORD};
pub use nginx::{Nginx, SMALL_JSON_LENGTH};
pub use node_proxy::{MOUNT, NodeProxy};
pub use rustix::process::Signal;

/// A loopback port that nobody listens on now. Another program may take it before it is used:
/// whoever passes it on starts again with another one when that happens.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
