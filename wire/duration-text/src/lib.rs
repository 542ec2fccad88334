//! Duration texts: 1h30m, P1DT2H, bare seconds
