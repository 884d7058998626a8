import pytest
import torch
from torch import nn

from mas_avalanche.consolidation import (
    drop_unreached,
    grow_rows,
    merge_importance,
    move_to_model,
    normalize_importance,
    take_anchor,
)


def test_sum_adds_and_keeps_names_that_only_one_side_has():
    old = {"shared": torch.tensor([1.0, 2.0]), "head0": torch.tensor([3.0])}
    new = {"shared": torch.tensor([10.0, 20.0]), "head1": torch.tensor([4.0])}
    merged = merge_importance(old, new)
    assert {n: v.tolist() for n, v in merged.items()} == {
        "shared": [11.0, 22.0],
        "head0": [3.0],
        "head1": [4.0],
    }
    assert old["shared"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_moving_average_spares_heads_that_took_no_part(alpha):
    old = {"shared": torch.tensor([1.0]), "head0": torch.tensor([3.0])}
    merged = merge_importance(old, {"shared": torch.tensor([5.0])}, alpha)
    assert merged["shared"].item() == alpha * 1.0 + (1 - alpha) * 5.0
    assert merged["head0"].item() == 3.0


def test_growth_gives_new_rows_their_own_importance_alone():
    old, new = {"w": torch.ones(2, 3)}, {"w": torch.full((4, 3), 2.0)}
    assert merge_importance(old, new)["w"].tolist() == [[3.0] * 3] * 2 + [[2.0] * 3] * 2
    assert merge_importance(old, new, 0.5)["w"].tolist() == [[1.5] * 3] * 2 + [[1.0] * 3] * 2


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (2,), (2, 3, 1)])
def test_other_changes_of_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected `w` to keep its shape or to grow"):
        grow_rows(torch.ones(2, 3), torch.Size(shape), "w")
    with pytest.raises(ValueError, match=r"Expected `w` to keep its shape or to grow"):
        merge_importance({"w": torch.ones(2, 3)}, {"w": torch.ones(shape)})


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=f"Expected `alpha` to be None or in .0, 1., got {alpha}"):
        merge_importance({}, {}, alpha)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_normalisation_makes_importance_free_of_its_scale(how):
    torch.manual_seed(0)
    importance = {"a": torch.rand(5, dtype=torch.float64), "b": torch.rand(2, dtype=torch.float64)}
    one = normalize_importance(importance, how)
    other = normalize_importance({n: 1e6 * v for n, v in importance.items()}, how)
    everything = torch.cat(list(one.values()))
    assert float(everything.mean() if how == "mean" else everything.max()) == pytest.approx(1.0)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-12, atol=0.0)


def test_normalisation_of_nothing_and_of_zeros_changes_nothing():
    assert normalize_importance({}, "mean") == {}
    zeros = {"a": torch.zeros(2)}
    assert normalize_importance(zeros, "max")["a"].tolist() == [0.0, 0.0]
    assert normalize_importance(zeros, None)["a"] is zeros["a"]


def test_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"Expected `normalization` .* got 'median'"):
        normalize_importance({"a": torch.ones(1)}, "median")


def test_anchor_is_a_copy_of_the_rows_that_matter():
    model = nn.Linear(3, 4)
    anchor = take_anchor(model, {"weight": torch.ones(2, 3)})
    assert torch.equal(anchor["weight"], model.weight[:2])
    with torch.no_grad():
        model.weight.add_(1.0)
    assert not torch.equal(anchor["weight"], model.weight[:2])
    assert set(anchor) == {"weight"}


def test_anchor_of_a_replaced_layer_is_refused():
    with pytest.raises(ValueError, match=r"Expected `weight` to keep its shape"):
        take_anchor(nn.Linear(3, 4), {"weight": torch.ones(2, 2)})


def test_vanished_parameters_are_forgotten():
    model = nn.Linear(3, 4)
    kept = move_to_model({"weight": torch.ones(4, 3), "gone": torch.ones(1)}, model)
    assert set(kept) == {"weight"}


def test_unreached_parameters_are_left_out():
    assert drop_unreached({"a": torch.zeros(3)}) == {}
