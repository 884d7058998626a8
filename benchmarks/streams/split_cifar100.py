"""Split CIFAR-100: 10 tasks of 10 classes.

Which classes share a task, and in which order tasks come, is drawn by seed or fixed. The test
images are the set's own; the validation images are cut from its training part by seed.

References:
    Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from benchmarks.streams._builders import split_cifar_builder

__all__ = ["build"]

build = split_cifar_builder(
    "cifar100", "CIFAR-100", 100, 10, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
)
