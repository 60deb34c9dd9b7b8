"""A swarm of real processes: spawned from a forkserver, started together, watched, measured and reaped."""
