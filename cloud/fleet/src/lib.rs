//! Units, items, assignments and desired state as pure logic
