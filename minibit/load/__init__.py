"""Load tests of trackers and peers: who asks what and when, whether the answers are right, and how long they took.

Nothing here knows locust: the locustfiles and MiniBit's own generator drive the same population and the same latencies.
"""
