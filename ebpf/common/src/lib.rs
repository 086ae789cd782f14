//! ABI between the BPF programs and userspace.
#![no_std]
