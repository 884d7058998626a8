"""Permuted Fashion-MNIST: 70,000 images of clothes, in another order of pixels in every task.

Made as permuted MNIST is, of a harder set. The test images are the set's own; the validation
images are cut from its training part by seed.

References:
    Xiao et al. (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms, arXiv:1708.07747.
"""

from benchmarks.streams._builders import permuted_builder

__all__ = ["build"]

build = permuted_builder(
    "permuted_fashion_mnist", "fashion_mnist", "Fashion-MNIST", mean=(0.2860,), std=(0.3530,)
)
