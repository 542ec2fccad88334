//! Routing of Unit messages inside the cloud
