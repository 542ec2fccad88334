//! Certificates that could not be renewed: the operator is told, beside the answer that names them.

use aos_cloud_protocol::Body;

use super::super::coordinator::Coordinator;

impl Coordinator {
    /// Reports what failed of a renewal.
    pub(super) fn report_failures(&mut self, answer: &Body) {
        let Body::InstallUnitCertificatesConfirmation(confirmation) = answer else { return };
        for one in &confirmation.certificates {
            if let Some(error) = &one.error_info {
                let node = one.node.key().unwrap_or("no node");
                self.report(&format!("certificate {} of {node} is not renewed: {error}", one.kind));
            }
        }
    }
}
