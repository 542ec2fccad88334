//! gRPC contracts between the Unit components
