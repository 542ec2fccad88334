//! What runs instances. There is one kind so far, the container runtime; components (boot, rootfs) are not
//! built yet.

pub mod container;
pub mod keeper;
