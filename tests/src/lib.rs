//! Helpers of the cases: where the samples and the built program are.
