//! Acknowledged message session of the cloud protocol, as a pure state machine
