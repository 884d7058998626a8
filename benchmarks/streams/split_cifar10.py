"""Split CIFAR-10: 5 tasks of 2 classes.

Which classes share a task, and in which order tasks come, is drawn by seed or fixed. The test
images are the set's own; the validation images are cut from its training part by seed.

References:
    Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from benchmarks.streams._builders import split_cifar_builder

__all__ = ["build"]

build = split_cifar_builder(
    "cifar10", "CIFAR-10", 10, 5, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)
)
