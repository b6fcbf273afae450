pub mod log;
pub mod netlink;
pub mod protect;
