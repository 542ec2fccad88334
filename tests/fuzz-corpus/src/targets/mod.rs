pub(crate) mod deployable;
pub(crate) mod discovery;
pub(crate) mod layer;
pub(crate) mod messages;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod recovery;
pub(crate) mod session;
pub(crate) mod websocket;

/// A complaint goes into logs and alerts: it must be short whatever the input was.
fn check_complaint(error: &dyn std::fmt::Display) {
    let length = error.to_string().len();
    assert!(length < 2000, "{length} bytes of complaint");
}
