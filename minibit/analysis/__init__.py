"""What records say together: sweeps, statistics, comparisons, plots."""
