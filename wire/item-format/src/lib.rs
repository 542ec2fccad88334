//! OCI index, manifest, image and item configuration
