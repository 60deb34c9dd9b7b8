"""Policy without input or output: no clock, no socket, no thread, no global randomness."""
