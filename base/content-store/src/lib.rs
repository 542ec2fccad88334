//! Content-addressed blobs on disk: partial, verified, collected
