"""MiniBit's benchmarks: pytest-benchmark targets, and ``python -m bench`` that runs a tier of them."""
