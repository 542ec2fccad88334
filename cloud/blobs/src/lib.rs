//! The cloud's blob store and its download server
