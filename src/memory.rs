//! The setting of the allocator on which the memory limit depends.

#![allow(unsafe_code)]

/// Returns every allocation of 1 MiB or more to the system when it is freed.
///
/// glibc's allocator raises this threshold to the size of the largest block that was freed, up to 32 MiB. Blocks of a
/// few MiB then come from its heaps, whose gaps it keeps. With 8 MiB values, large keys and many headers at once, the
/// daemon's peak was 248 MiB without this and 177 MiB with it (`cargo test --test it -- with_large_values
/// --nocapture`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_large_blocks() {
    use std::ffi::c_int;

    /// `M_MMAP_THRESHOLD` of `malloc.h`.
    const MMAP_THRESHOLD: c_int = -3;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    // SAFETY: mallopt may be called at any time; it only changes how later allocations are served.
    unsafe {
        mallopt(MMAP_THRESHOLD, 1 << 20);
    }
}

/// Does nothing, as other allocators have no such threshold.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_blocks() {}
