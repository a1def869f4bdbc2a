"""Measure servers, and the overhead of this one: always as ratios taken within one run."""
