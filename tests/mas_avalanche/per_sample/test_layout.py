import pytest
import torch

from mas_avalanche.per_sample.layout import Layout, agree, find_layout


def pair(tensor, dim):
    """Show three samples (the last dimension sizes) and the first two, swapped."""
    return tensor, tensor.index_select(dim, torch.tensor([1, 0]))


def test_a_single_dimension_is_found_wherever_it_is():
    for dim in range(3):
        shape = [4, 5, 6]
        shape[dim] = 3
        assert find_layout(*pair(torch.randn(shape), dim)) == Layout(dim)


@pytest.mark.parametrize("sample_first", [True, False])
def test_folded_samples_are_told_apart(sample_first):
    full = torch.randn(3, 4, 2) if sample_first else torch.randn(4, 3, 2)
    first, second = pair(full, 0 if sample_first else 1)
    layout = find_layout(first.flatten(0, 1), second.flatten(0, 1))
    assert layout == Layout(0, 4, sample_first)
    moved = layout.samples(first.flatten(0, 1))
    assert torch.equal(moved, full if sample_first else full.transpose(0, 1))


def test_what_cannot_be_told_is_left_open():
    same = torch.ones(12, 2)
    assert find_layout(same, same[:8]) is None  # either order would fit
    assert find_layout(torch.randn(3, 2), torch.randn(2, 2)) is None  # samples depend on others
    assert find_layout(torch.randn(4, 2), torch.randn(4, 2)) is None
    assert find_layout(torch.randn(3, 3), torch.randn(2, 2)) is None
    assert find_layout(torch.randn(3), torch.randn(2, 1)) is None


def test_agreement_allows_rounding_only():
    x = torch.randn(5)
    assert agree(x, x * (1 + 1e-6))
    assert not agree(x, x * 1.01)
    assert not agree(x, x.double())
    assert agree(torch.tensor([1.0, float("-inf")]), torch.tensor([1.0, float("-inf")]))
    assert not agree(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 2.0]))
    assert agree(torch.empty(0), torch.empty(0))
    assert not agree(torch.tensor([1, 2]), torch.tensor([1, 3]))
