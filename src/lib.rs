//! placeholder
pub mod event;
pub mod fold;
pub mod identity;
pub mod plan;
pub mod record;
