"""Figures and tables of what is measured beside accuracy, from records whose truth is known."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.record import Overlap, Probes, SubsetAccuracy
from benchmarks.render import build, questions
from benchmarks.render.analysis import analyse, describe_method
from benchmarks.render.drawing import png, style
from benchmarks.study import Variant
from tests.benchmarks import synthetic

LAYERS = ("trunk.features.8", "trunk.features.10")
SIZES = {"mas_batch_1": 1, "mas_batch_16": 16, "mas_batch_256": 256}
VARIANTS = {
    name: Variant("mas_batch_gradient", f"Batches of {size}", {"batch_size": size})
    for name, size in SIZES.items()
}


def with_variants(study, **changes):
    parts = tuple(dataclasses.replace(part, variants=VARIANTS, **changes) for part in study.parts)
    return dataclasses.replace(study, parts=parts)


def overlap(value):
    return tuple(
        Overlap(layer, 9, ((1.0, value + shift, None), (value + shift, 1.0, 0.2), (None, 0.2, 1.0)))
        for layer, shift in zip(LAYERS, (0.0, 0.2), strict=True)
    )


def measured(study, method, seed, value):
    """A run of three tasks that loses 30 points of the first and 10 of the second task."""
    rows = ((0.9, 0.5, 0.5), (0.7, 0.8, 0.5), (0.6, 0.7, 0.9))
    return synthetic.record(
        study, "digits", method, seed, synthetic.TUNED.get(method) and 1.0, num_tasks=3,
        accuracy={"test": rows},
        probes=Probes((0.4, 0.4, 0.4), (0.95, 0.85, 0.9), (0.9, 0.85, 0.9)),
        overlap=overlap(value) if method in synthetic.TUNED else (),
        subset=SubsetAccuracy((1,), 3, 6, (0.9, 0.8, 0.8), (0.9, 0.65, 0.5)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def study():
    return synthetic.study(parts=["digits"], methods=["naive", "joint", "mas", "ewc"])


@pytest.fixture(scope="module")
def records(study):
    return [
        measured(study, method, seed, 0.3 + seed / 100)
        for method in ("naive", "mas", "ewc")
        for seed in study.seeds.evaluation
    ]


@pytest.fixture(scope="module")
def part(study, records):
    return analyse(study, records).parts[0]


def draw(name, part):
    with style():
        sketch = questions.panels()[name].draw(part, True)
        return sketch, None if sketch is None else png(sketch)


def tips(sketch):
    return [tip for mark in sketch.marks.values() for tip in mark.tips]


@pytest.mark.parametrize("name", ["subset", "probes", "overlap", "overlap-layers"])
def test_figures_are_drawn_from_the_records_that_hold_them(name, part, study):
    sketch, image = draw(name, part)
    assert Image.open(io.BytesIO(image)).width > 400
    assert sketch.alt.endswith("Digits problem")
    assert tips(sketch)
    plain = analyse(study, synthetic.records(study)).parts[0]
    assert draw(name, plain)[0] is None


def test_what_is_kept_of_the_classes_in_use_is_told_from_the_others(part):
    sketch, _ = draw("subset", part)
    said = " ".join(tips(sketch))
    assert "MAS, In use: lost, points: +10.0" in said
    assert "MAS, Others: lost, points: +40.0" in said
    assert "MAS, Later tasks, %: 85.0" in said
    table = questions.subset_table(part)
    assert [row.method for row in table.rows] == ["naive", "mas", "ewc"]
    assert [cell.order for cell in table.rows[1].cells[1:]] == pytest.approx(
        [0.8, 0.1, 0.5, 0.4, 0.85]
    )


def test_probes_are_set_beside_the_network_s_own_answers(part):
    table = questions.probe_table(part)
    found = dict(zip([c.title for c in table.columns], table.rows[1].cells, strict=True))
    assert found["Network lost, points"].order == pytest.approx((0.3 + 0.1) / 2)
    assert found["Probe lost, points"].order == pytest.approx((0.05 + 0.0) / 2)
    assert found["Probe untrained, %"].order == pytest.approx(0.4)
    said = tips(draw("probes", part)[0])
    assert any(tip.startswith("EWC, the network's answers: 20.0") for tip in said)
    assert any(tip.startswith("EWC, a probe of its features: 2.5") for tip in said)


def test_overlap_is_averaged_over_layers_and_seeds_and_layers_keep_their_order(part):
    sketch, _ = draw("overlap", part)
    # 0.3 + seed / 100 in one layer and 0.2 more in the other: 0.43 on average.
    assert f"{part.task_names[0]} and {part.task_names[1]}: 0.43" in tips(sketch)
    by_layer = tips(draw("overlap-layers", part)[0])
    mas = [tip for tip in by_layer if tip.startswith("MAS")]
    # With the pair that has no correlation left out: (0.33 + 0.2) / 2 and (0.53 + 0.2) / 2.
    assert mas == ["MAS, trunk.features.8: 0.27", "MAS, trunk.features.10: 0.37"]
    assert not any(tip.startswith("Naive") for tip in by_layer)


def test_two_tasks_are_drawn_only_of_parts_that_have_two(part, study):
    assert draw("two-tasks", part)[0] is None
    runs = [
        synthetic.record(
            study,
            "digits",
            "mas",
            seed,
            1.0,
            num_tasks=2,
            accuracy={"test": ((0.9, 0.1), (0.7, 0.8))},
        )
        for seed in study.seeds.evaluation
    ]
    sketch, image = draw("two-tasks", analyse(study, runs).parts[0])
    assert image
    said = " ".join(tips(sketch))
    assert "MAS, First task lost, points: +20.0" in said
    assert "MAS, Second task, %: 80.0" in said


@pytest.fixture(scope="module")
def exactness():
    names = ["mas", *SIZES]
    study = with_variants(
        synthetic.study(parts=["digits"], methods=names),
        grid=dict.fromkeys(names, (0.1, 1.0, 10.0)),
    )
    best = {"mas": 0.1, "mas_batch_1": 0.1, "mas_batch_16": 1.0, "mas_batch_256": 10.0}
    runs = [
        synthetic.record(study, "digits", name, seed, best[name], {name: 0.02 + number / 100})
        for number, name in enumerate(names)
        for seed in study.seeds.evaluation
    ]
    return study, runs


def test_accuracy_and_best_strength_are_drawn_by_batch_size(exactness):
    part = analyse(*exactness).parts[0]
    sketch, image = draw("exactness", part)
    assert np.asarray(Image.open(io.BytesIO(image))).std() > 5
    said = tips(sketch)
    order = [tip for tip in said if "λ = " in tip]
    assert order == [
        "MAS, exact: λ = 0.1",
        "Batches of 1: λ = 0.1",
        "Batches of 16: λ = 1",
        "Batches of 256: λ = 10",
    ]
    assert sum("%" in tip for tip in said) == 4


def test_a_variant_has_its_own_title_wherever_it_is_named(exactness):
    files = dict(build(*exactness))
    readme = files["README.md"].decode()
    for size in SIZES.values():
        assert f"Batches of {size}" in readme
    assert "mas_batch_256" not in readme
    assert r"MAS (batch gradients) with batch\_size = 256." in readme
    assert "figures/digits-exactness.png" in files


def test_what_a_variant_takes_over_from_its_method():
    info = describe_method("mas_batch_1", VARIANTS)
    base = describe_method("mas_batch_gradient")
    assert (info.name, info.title) == ("mas_batch_1", "Batches of 1")
    assert (info.strength, info.paper) == (base.strength, base.paper)
    assert info.notes[-1] == "MAS (batch gradients) with batch_size = 1."


def test_every_number_drawn_is_in_a_csv_file(study, records):
    files = dict(build(study, records))
    kept = files["tables/subset.csv"].decode().splitlines()
    assert kept[0] == "part,method,strength,seed,after_task,in_use,others"
    assert kept[1] == "digits,ewc,1,1,digits 0,0.9,0.9"
    assert len(kept) == 1 + 15 * 3
    probed = files["tables/probes.csv"].decode().splitlines()
    assert probed[1] == "digits,ewc,1,1,digits 0,0.4,0.95,0.9"
    alike = files["tables/overlap.csv"].decode().splitlines()
    assert alike[1] == "digits,ewc,1,1,trunk.features.8,digits 1,digits 0,0.31"
    assert len(alike) == 1 + 10 * 2 * 3


def test_a_study_without_these_measurements_has_none_of_these_files(study):
    files = dict(build(study, synthetic.records(study)))
    assert not {"tables/subset.csv", "tables/probes.csv", "tables/overlap.csv"} & files.keys()
    readme = files["README.md"].decode()
    for panel in questions.panels().values():
        assert panel.title not in readme
