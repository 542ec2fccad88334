//! Keys and certificates in PKCS#11 tokens
