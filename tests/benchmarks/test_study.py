import dataclasses
import tomllib

import pytest

from benchmarks import methods
from benchmarks.continual_selection import Continual
from benchmarks.methods import get
from benchmarks.selection import evaluation_runs, selection_runs
from benchmarks.study import available, load, parse
from tests.benchmarks.studies import smoke_study, smoke_table


def test_a_study_is_read_with_all_defaults_written_out():
    study = parse(smoke_table(), "smoke")
    (part,) = study.parts
    assert part.name == "digits"
    assert part.title == "digits"
    assert part.stream_options == {"scenario": "task", "validation": 0.15}
    assert part.model_options == {"hidden": [16], "dropout": 0.0}
    assert part.training.momentum == 0.0
    assert part.grid == {"mas": (1.0, 0.1)}
    assert part.options["mas"] is not None
    assert part.threads == 1


@pytest.mark.parametrize("name", available())
def test_every_study_that_comes_with_the_checkout_is_read(name):
    assert load(name).name == name


def _put(table, path, value):
    *way, last = path.split(".")
    for key in way:
        table = table[key]
    if value is None:
        del table[last]
    else:
        table[last] = value


PART = "parts.digits"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("titel", "x", r"Unknown key `titel` in study `smoke`. Did you mean `title`\?"),
        ("name", "x", "Unknown key `name` in study `smoke`"),
        ("question", None, "Expected the key `question` in study `smoke`, and it is missing"),
        ("question", 3, "Expected `question` in study `smoke` to be a string, got 3"),
        ("parts", {}, "Expected study `smoke` to have at least one table"),
        ("parts.bad name", {}, "Expected"),
        (f"{PART}.epoch", 3, "Unknown key `epoch`"),
        (f"{PART}.training.epoch", 3, r"Unknown key `epoch` in .* Did you mean `epochs`\?"),
        (f"{PART}.training.epochs", 0, "Expected `epochs` .* to be at least 1, got 0"),
        (f"{PART}.training.epochs", 1.5, "Expected `epochs` .* a whole number, got 1.5"),
        (f"{PART}.training.epochs", True, "Expected `epochs` .* a whole number, got True"),
        (f"{PART}.training.learning_rate", "fast", "a finite number, got 'fast'"),
        (f"{PART}.training.learning_rate", float("inf"), "a finite number, got inf"),
        (f"{PART}.training.learning_rate", 0.0, "to be positive, got 0.0"),
        (f"{PART}.training.momentum", -0.1, "not to be negative, got -0.1"),
        (f"{PART}.training.decay", 0.1, "Expected `decay_every` and `decay` in .* together"),
        (f"{PART}.training.decay_every", 3, "Expected `decay_every` and `decay` in .* together"),
        (f"{PART}.training.decay_every", 0.5, "Expected `decay_every` .* a whole number, got 0.5"),
        (f"{PART}.training.optimizer", "sdg", "one of sgd, adam, adamw; got 'sdg'"),
        (f"{PART}.stream", "split_digit", r"Unknown stream .* Did you mean `split_digits`\?"),
        (f"{PART}.stream_options", {"task": 3}, "Unknown key `task` in `stream_options`"),
        (f"{PART}.stream_options", {"data_root": "x"}, "Unknown key `data_root`"),
        (f"{PART}.model", "mpl", r"Unknown model `mpl` .* Did you mean `mlp`\?"),
        (f"{PART}.model_options", {"hiden": []}, r"Unknown key `hiden` .* Did you mean `hidden`\?"),
        (f"{PART}.methods", ["naiv"], r"Unknown method `naiv` .* Did you mean `naive`\?"),
        (f"{PART}.methods", ["mas", "mas"], "each method once in `methods` .* got mas"),
        (f"{PART}.methods", [], "to name at least one method"),
        (f"{PART}.grid", {"ewc": [1.0]}, "Unknown method `ewc` in"),
        (f"{PART}.grid", {"naive": [1.0]}, "no grid for `naive` .* nothing to tune"),
        (f"{PART}.grid", {"mas": []}, "to hold at least one strength"),
        (f"{PART}.grid", {"mas": [1.0, 1.0]}, "each strength once"),
        (f"{PART}.grid", {"mas": [1.0, -1.0]}, "no negative strength, got -1.0"),
        (f"{PART}.options", {"mas": {"lambda": 3}}, "Unknown key `lambda` in `mas`"),
        (f"{PART}.threads", 0, "Expected `threads` .* at least 1, got 0"),
        (f"{PART}.measure", ["probe"], "one of overlap, probes; got 'probe'"),
        (f"{PART}.subset", [1, 1], r"`subset` .* each once, got \[1, 1\]"),
        (f"{PART}.subset", [-1], r"`subset` .* got \[-1\]"),
        (f"{PART}.variants", {"mas2": {"method": "mas"}}, "the key `title` in"),
        (f"{PART}.variants", {"m": {"method": "mass", "title": "M"}}, "Unknown method `mass` in"),
        (f"{PART}.variants", {"ewc": {"method": "mas", "title": "M"}}, "a method of this name"),
        (f"{PART}.variants", {"m": {"method": "mas", "title": "M"}}, "name the variant `m` too"),
        ("seeds.evaluation", [], "at least one seed"),
        ("seeds.evaluation", [0, 1], "each seed once .* got 0 again"),
        ("parts.digits.evaluation", [3, 0], "each seed once .* got 0 again"),
        ("seeds.evaluation", [-1], "not to be negative, got -1"),
        ("seeds.tuning", [], "Expected `tuning` .* to name a seed"),
        ("selection", {"procedure": "guess"}, "one of grid, continual; got 'guess'"),
        ("selection", {"continual": {}}, r"no table \[selection.continual\] .* \"grid\""),
        ("selection", {"procedure": "continual"}, "no `tuning` .* each run chooses for itself"),
    ],
)
def test_a_mistake_is_one_clear_sentence(path, value, message):
    table = smoke_table()
    _put(table, path, value)
    with pytest.raises(ValueError, match=message) as caught:
        parse(table, "smoke")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("every", "decay", "message"),
    [
        (0, 0.1, "Expected `decay_every` .* to be at least 1, got 0"),
        (3, 0.0, "Expected `decay` .* to be above 0 and at most 1, got 0.0"),
        (3, 1.5, "Expected `decay` .* to be above 0 and at most 1, got 1.5"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(every, decay, message):
    table = smoke_table()
    table["parts"]["digits"]["training"] |= {"decay_every": every, "decay": decay}
    with pytest.raises(ValueError, match=message):
        parse(table, "smoke")


TEST_INPUTS = {"method": "mas", "title": "MAS, test", "options": {"importance_data": "test"}}


def test_a_variant_is_a_method_of_its_own():
    study = smoke_study(
        methods=["naive", "mas", "mas_test"],
        grid={"mas": [1.0, 0.1], "mas_test": [3.0, 2.0]},
        variants={"mas_test": TEST_INPUTS},
        measure=["probes"],
        subset=[1],
    )
    (part,) = study.parts
    assert part.options["mas"] == {"importance_data": "train"}
    assert part.options["mas_test"] == part.variants["mas_test"].options
    assert part.options["mas_test"] == {"importance_data": "test"}
    (tuned, _) = selection_runs(study, part, "mas_test")
    assert (tuned.method, tuned.base, tuned.strength) == ("mas_test", "mas", 3.0)
    assert (tuned.measure, tuned.subset) == ([], [1])
    reported = evaluation_runs(study, part, "mas_test", 2.0)[0]
    assert reported.measure == ["probes"]
    plain = evaluation_runs(study, part, "mas", 2.0)[0]
    assert plain.base is None
    assert plain.key("code") != reported.key("code")


def test_options_of_a_variant_are_checked_and_stand_in_one_place():
    wrong = {**TEST_INPUTS, "options": {"importance_from": "test"}}
    with pytest.raises(ValueError, match="Unknown key `importance_from` in `options` in"):
        smoke_study(methods=["m"], grid={}, variants={"m": wrong})
    with pytest.raises(ValueError, match=r"options of `m` in \[variants.m\] .*, not in"):
        smoke_study(methods=["m"], grid={}, variants={"m": TEST_INPUTS}, options={"m": {}})


def test_a_variant_is_the_same_in_all_parts():
    table = smoke_table()
    first = table["parts"]["digits"]
    first |= {"methods": ["m"], "grid": {"m": [1.0]}, "variants": {"m": TEST_INPUTS}}
    table["parts"]["other"] = {**first, "variants": {"m": {**TEST_INPUTS, "title": "Another"}}}
    with pytest.raises(ValueError, match=r"`m` to be the same in all parts .*\[parts.other\]"):
        parse(table, "smoke")


def test_unequal_grids_are_refused():
    with pytest.raises(
        ValueError, match=r"as many strengths for every tuned method .* mas 2, si 3"
    ):
        smoke_study(methods=["mas", "si"], grid={"mas": [1.0, 2.0], "si": [1.0, 2.0, 3.0]})


def continual_table(**constants):
    table = smoke_table()
    table["seeds"] = {"evaluation": [1]}
    table["selection"] = {"procedure": "continual", "continual": constants}
    table["parts"]["digits"]["grid"] = {"mas": [2.0]}
    return table


def test_a_continual_study_starts_from_one_strength_a_method():
    study = parse(continual_table(max_attempts=3), "smoke")
    assert study.selection.continual == Continual(max_attempts=3)
    assert study.parts[0].grid == {"mas": (2.0,)}
    table = continual_table()
    del table["parts"]["digits"]["grid"], table["selection"]["continual"]
    study = parse(table, "smoke")
    assert study.selection.continual == Continual()
    assert study.parts[0].grid == {"mas": (methods.get("mas").default_grid[0],)}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{PART}.grid", {"mas": [2.0, 1.0]}, "Expected one strength in the grid of `mas`.* got 2"),
        ("selection.continual", {"margin": 0.1}, "Unknown key `margin` in"),
        ("selection.continual", {"drop_margin": 1.0}, "at least 0 and below 1, got 1.0"),
        ("selection.continual", {"decay_factor": 1.0}, "between 0 and 1, got 1.0"),
        ("selection.continual", {"max_attempts": 0}, "`max_attempts` to be at least 1, got 0"),
        ("selection.continual", {"learning_rate_factors": []}, "at least one factor"),
        ("selection.continual", {"learning_rate_factors": [1, 1]}, "there once"),
    ],
)
def test_a_mistake_in_a_continual_study_is_refused(path, value, message):
    table = continual_table()
    _put(table, path, value)
    with pytest.raises(ValueError, match=message):
        parse(table, "smoke")


def test_a_method_that_cannot_change_its_strength_takes_no_part_in_a_continual_study(monkeypatch):
    fixed = dataclasses.replace(methods.get("mas"), knob="")
    monkeypatch.setattr(methods, "get", lambda name: fixed if name == "mas" else get(name))
    with pytest.raises(ValueError, match=r"change their strength from task to task.* `mas` cannot"):
        parse(continual_table(), "smoke")


def test_the_configuration_of_a_run_has_a_selection_only_where_it_chooses_for_itself():
    (config,) = evaluation_runs(study := parse(continual_table(), "s"), study.parts[0], "mas", 2.0)
    assert config.to_table()["selection"]["decay_factor"] == 0.5
    study = smoke_study()
    (config, _) = evaluation_runs(study, study.parts[0], "mas", 2.0)
    assert "selection" not in config.to_table()


def test_a_file_with_broken_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("title = ")
    with pytest.raises(ValueError, match=r"broken\.toml to be a TOML file"):
        load(path)
    with pytest.raises(ValueError, match="there is none"):
        load(tmp_path / "none.toml")


def test_an_unknown_study_gets_a_hint():
    with pytest.raises(ValueError, match=r"Unknown study `embeded`.*Did you mean `embedded`\?"):
        load("embeded")


def test_the_embedded_study_tunes_every_method_alike_and_needs_no_download():
    study = load("embedded")
    assert len(study.seeds.evaluation) >= 3
    assert len(study.parts) == 3
    for part in study.parts:
        assert set(part.methods) == {"naive", "joint", "mas", "ewc", "si", "lwf"}
        assert {len(grid) for grid in part.grid.values()} == {5}


@pytest.mark.parametrize("name", ["embedded_all", "embedded_continual"])
def test_the_studies_beside_the_embedded_one_train_as_it_does_on_other_seeds(name):
    study, embedded = load(name), load("embedded")
    parts = {part.name: part for part in embedded.parts}
    for part in study.parts:
        for what in ("title", "stream", "stream_options", "model", "model_options", "training"):
            assert getattr(part, what) == getattr(parts[part.name], what), what
    assert len(study.seeds.evaluation) >= 5
    assert not {*study.seeds.evaluation} & {*embedded.seeds.evaluation}


def test_the_study_of_all_methods_leaves_none_out():
    for part in load("embedded_all").parts:
        # Mini-batch gradients are in `exactness`; sampling pays with more data than are embedded.
        others = {"mas_batch_gradient", "mas_sampled"}
        assert set(part.methods) == set(methods.names()) - others
        assert {len(grid) for grid in part.grid.values()} == {5}


def test_the_name_of_a_run_depends_on_all_of_its_configuration():
    from tests.benchmarks.studies import smoke_config

    base = smoke_config()
    assert base.key("code") == smoke_config().key("code")
    assert base.key("code") != base.key("other code")
    others = [
        smoke_config("mas", 0.1),
        smoke_config("mas", 0.2),
        smoke_config(model_options={"hidden": [17]}),
        smoke_config(stream_options={"validation": 0.2}),
        smoke_config(threads=2),
        smoke_config(measure=["probes"]),
        smoke_config(subset=[0]),
    ]
    assert len({config.key("code") for config in [base, *others]}) == 8


def test_toml_integers_are_numbers():
    table = tomllib.loads("[training]\nlearning_rate = 1")
    study = smoke_study(
        training={"optimizer": "sgd", "epochs": 1, "batch_size": 8, **table["training"]}
    )
    assert study.parts[0].training.learning_rate == 1.0
