import pickle

import pytest

from benchmarks import methods
from benchmarks.methods import Method
from mas_avalanche.baselines import EWCPlugin


@pytest.mark.parametrize("name", methods.names())
def test_each_file_defines_a_method_of_its_name(name):
    method = methods.get(name)
    assert method.name == name
    assert method.title
    strength = method.default_grid[0] if method.strength else None
    plugins = method.make(strength)
    pickle.loads(pickle.dumps(plugins))
    if method.strength:
        assert plugins
        assert len(method.default_grid) == 7
        assert method.paper
        first, second = method.make(strength), method.make(strength)
        assert first[0] is not second[0]
    else:
        assert plugins == []


def test_only_joint_trains_on_the_union_of_tasks():
    assert [name for name in methods.names() if methods.get(name).joint] == ["joint"]


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"one of .*ewc.*naive.*, got 'mass'\. Did you mean 'mas'"):
        methods.get("mass")


def test_options_are_passed_on_and_unknown_ones_refused():
    method = methods.get("ewc")
    assert method.options() == ("mode", "decay_factor")
    (plugin,) = method.make(2.0, mode="online", decay_factor=0.5)
    assert isinstance(plugin, EWCPlugin)
    assert (plugin.ewc_lambda, plugin.mode, plugin.decay_factor) == (2.0, "online", 0.5)
    with pytest.raises(ValueError, match=r"one of .*, got 'modes'\. Did you mean 'mode'"):
        method.make(2.0, modes="online")


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("naive", 1.0, "no strength for method 'naive', got 1.0"),
        ("si", None, r"strength of method 'si' \(c\) to be finite and not negative, got None"),
        ("si", -1.0, r"to be finite and not negative, got -1.0"),
        ("si", float("inf"), r"to be finite and not negative, got inf"),
    ],
)
def test_a_wrong_strength_is_refused(name, strength, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name).make(strength)


def test_a_grid_must_fall_and_go_with_a_strength():
    with pytest.raises(ValueError, match="to fall strictly, strongest first"):
        Method("m", "M", "λ", (1.0, 3.0), list)
    with pytest.raises(ValueError, match="exactly where there is a strength"):
        Method("m", "M", None, (1.0,), list)
