"""Tests, and the slow, obviously correct versions that judge the fast ones."""
