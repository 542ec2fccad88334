//! Digest, decryption and signature of blobs, as streams
