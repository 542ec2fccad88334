//! Test hosts: boxes, Units and clouds that tests and the demo run on
