//! Client of the Identity and Access Manager: certificates, identity, TLS configurations
