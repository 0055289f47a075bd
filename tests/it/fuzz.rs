//! Any bytes into the decoder.
