"""Permuted MNIST: every task shows the 70,000 digits in another fixed order of their pixels.

The first task keeps the order of the set. The test digits are MNIST's own; the validation digits
are cut from its training part by seed. With ``padding=2`` images have 32x32 pixels that are all
permuted, as in van de Ven and Tolias (2018).

References:
    Goodfellow et al. (2013), An empirical investigation of catastrophic forgetting.
    LeCun et al. (1998), Gradient-based learning applied to document recognition (MNIST).
"""

from benchmarks.streams._builders import permuted_builder

__all__ = ["build"]

build = permuted_builder("permuted_mnist", "mnist", "MNIST", mean=(0.1307,), std=(0.3081,))
