"""Trying to break what the package promises: kills, outages and contention, from outside.

Each module is a command: it starts the real ``pneumonia``, does harm to it, and counts from
outside, in the stores, whether what is promised held.
"""
