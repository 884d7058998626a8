"""Timings: what exactness and the penalty cost, and how fast training is, each in one run."""
