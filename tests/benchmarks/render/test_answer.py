"""The one sentence: what it says is what the records carry, in every constellation."""

import dataclasses
import re

import pytest

from benchmarks.render.analysis import analyse
from benchmarks.render.answer import short_names
from tests.benchmarks import synthetic

WINS = synthetic.LOSS
LOSES = {**synthetic.LOSS, "mas": 0.3, "lwf": 0.02}
TIES = {**synthetic.LOSS, "mas": 0.12}  # EWC's
SAME = dict.fromkeys(synthetic.LOSS, 0.1)


def say(study, **loss):
    """The answer where each part has losses of its own; "lost" leaves MAS out."""
    records = []
    for part, of in loss.items():
        made = [r for r in synthetic.records(study, loss=of or WINS) if r.part == part]
        records += [r for r in made if of or r.method != "mas"]
    return re.sub(r"\d+\.\d", "0", analyse(study, records).answer)


@pytest.fixture(scope="module")
def one():
    return synthetic.study(parts=["digits"])


@pytest.fixture(scope="module")
def two():
    return synthetic.study(parts=["digits", "letters"])


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        (WINS, "MAS is ahead of every other method (next is EWC, +0 [+0, +0] points)."),
        (
            TIES,
            "MAS beats naive training beyond noise; it is within noise of the best other method "
            "(EWC, −0 points).",
        ),
        (
            LOSES,
            "MAS beats naive training beyond noise; it is behind the best other method "
            "(LwF, −0 [−0, −0] points).",
        ),
        (
            {**LOSES, "mas": 0.6},
            "MAS is behind naive training beyond noise; it is behind the best other method "
            "(LwF, −0 [−0, −0] points).",
        ),
    ],
)
def test_one_part(one, loss, answer):
    said = say(one, digits=loss)
    assert (
        said.replace("+0 points", "−0 points") == f"In average accuracy on Digits problem, {answer}"
    )


def test_no_difference_is_within_noise_of_all(one):
    said = say(one, digits=SAME)
    assert "is within noise of naive training; it is within noise of the best other method" in said


def test_ahead_of_the_best_is_not_ahead_of_all(one):
    """A method with a lower mean may be so noisy that nothing can be said of it."""
    records = synthetic.records(one)
    wild = {1: 0.0, 2: 0.9, 3: 0.0, 4: 0.9, 5: 0.9}
    records = [
        synthetic.record(one, "digits", "si", r.seed, 1.0, {"si": wild[r.seed]})
        if (r.method, r.role) == ("si", "evaluation")
        else r
        for r in records
    ]
    answer = analyse(one, records).answer
    assert (
        "beats naive training beyond noise; it is ahead of the best other method (EWC, +" in answer
    )


def test_parts_share_one_sentence(two):
    assert say(two, digits=TIES, letters=LOSES) == (
        "In average accuracy MAS beats naive training beyond noise on both parts; it is within "
        "noise of the best other method on Digits problem (EWC, −0 points), and is behind it on "
        "Letters problem (LwF, −0 [−0, −0] points)."
    ).replace("EWC, −0", "EWC, " + ("+0" if "EWC, +0" in say(two, digits=TIES) else "−0"))
    assert say(two, digits=WINS, letters=WINS) == (
        "In average accuracy MAS is ahead of every other method on Digits problem (next is EWC, "
        "+0 [+0, +0] points) and Letters problem (next is EWC, +0 [+0, +0] points)."
    )
    mixed = say(two, digits=WINS, letters={**LOSES, "mas": 0.6})
    assert (
        "beats naive training beyond noise on Digits problem, and is behind it beyond noise on "
        "Letters problem; it is ahead"
    ) in mixed.replace("behind naive training", "behind it")


def test_a_part_without_a_run_is_not_passed_over(two):
    said = say(two, digits=LOSES, letters=None)
    assert "beats naive training beyond noise on Digits problem;" in said
    assert said.endswith("; it has no finished run on Letters problem.")


def test_few_seeds_carry_no_claim(two):
    few = dataclasses.replace(two, seeds=dataclasses.replace(two.seeds, evaluation=(1, 2, 3)))
    assert say(few, digits=WINS, letters=LOSES) == (
        "In average accuracy, with too few seeds (fewer than 5) to tell noise, MAS has a higher "
        "mean than the best other method on Digits problem (EWC, +0 points), and has a lower mean "
        "than it on Letters problem (LwF, −0 points)."
    )
    single = dataclasses.replace(two, seeds=dataclasses.replace(two.seeds, evaluation=(1,)))
    assert "with too few seeds" in say(single, digits=WINS, letters=LOSES)


def test_a_part_with_few_seeds_stands_apart(two):
    records = [
        r
        for r in synthetic.records(two, loss=LOSES)
        if (r.part, r.role) == ("digits", "evaluation") or r.seed in (1, 2)
    ]
    answer = analyse(two, records).answer
    assert "beats naive training beyond noise on Digits problem; it is behind" in answer
    assert (
        "; with too few seeds (fewer than 5) to tell noise, it has a lower mean than it" in answer
    )


def test_naive_alone_and_nothing_at_all():
    study = synthetic.study(parts=["digits"], methods=["naive", "joint", "mas"])
    assert say(study, digits=WINS) == (
        "In average accuracy on Digits problem, MAS beats naive training beyond noise."
    )
    alone = synthetic.study(parts=["digits"], methods=["joint", "mas"])
    nothing = "No finished run of MAS can be compared with another method yet."
    assert say(alone, digits=WINS) == nothing
    assert say(study, digits=None) == nothing
    none = synthetic.study(parts=["digits"], methods=["naive", "joint"])
    assert say(none, digits=WINS).startswith("The study names no method")


def test_variants_are_spoken_of_with_and_without_other_methods():
    forms = ["mas", "mas_vector", "avalanche_mas"]
    alike = {**WINS, "mas_vector": WINS["mas"], "avalanche_mas": WINS["mas"]}
    apart = {**alike, "avalanche_mas": 0.3}
    alone = synthetic.study(parts=["digits", "letters"], methods=forms)
    assert say(alone, digits=alike, letters=alike) == (
        "In average accuracy MAS is within noise of each of its variants on both parts."
    )
    assert say(alone, digits=alike, letters=apart) == (
        "In average accuracy MAS is within noise of each of its variants on Digits problem, and "
        "differs from a variant beyond noise on Letters problem (MAS (Avalanche's own), +0 "
        "[+0, +0] points)."
    )
    beside = synthetic.study(parts=["digits"], methods=["naive", *forms])
    assert say(beside, digits=alike) == (
        "In average accuracy on Digits problem, MAS beats naive training beyond noise; it is "
        "within noise of each of its variants."
    )


def test_stand_ins_are_called_so():
    both = synthetic.study()
    said = say(both, digits=WINS, glyphs=LOSES)
    assert "on both parts" in said
    assert "Glyphs problem (stand-in; LwF, " in said
    only = synthetic.study(parts=["glyphs"])
    assert say(only, glyphs=WINS).startswith(
        "In average accuracy on Glyphs problem (stand-in), MAS"
    )
    records = [
        dataclasses.replace(r, stream={**r.stream, "stand_in_for": "another"})
        for r in synthetic.records(both)
    ]
    head = "In average accuracy, on streams that are all stand-ins, MAS is ahead"
    assert analyse(both, records).answer.startswith(head)


def test_names_are_short_while_they_stay_apart():
    study = synthetic.study(parts=["digits", "glyphs", "letters"])
    parts = analyse(study, synthetic.records(study)).parts

    def shorten(*titles):
        renamed = [
            dataclasses.replace(p, part=dataclasses.replace(p.part, title=title))
            for p, title in zip(parts, titles, strict=True)
        ]
        return list(short_names(renamed).values())

    assert shorten("A (1 of 2)", "B: the rest", "C") == ["A", "B", "C"]
    assert shorten("A (1)", "A (2)", "C") == ["A (1)", "A (2)", "C"]
    assert shorten("A: 1 (x)", "A: 2", "C") == ["A: 1", "A: 2", "C"]
