"""Whether a change made it worse: pairs of runs of two sides, a verdict with its evidence, and the history of both."""
