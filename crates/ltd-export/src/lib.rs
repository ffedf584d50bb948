//! Freezes the policies of a run into a verified policy package.
