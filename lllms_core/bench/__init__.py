"""Measuring servers and what the house itself costs: always as ratios that were taken in one run."""
