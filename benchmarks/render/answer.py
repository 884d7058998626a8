"""The answer of a report: one sentence, and no claim in it that the records do not carry."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.render import text
from benchmarks.statistics import MIN_SEEDS

if TYPE_CHECKING:  # analysis calls this module
    from benchmarks.render.analysis import Comparison, PartResult

__all__ = ["all_stand_ins", "answer", "heads", "label", "short_names"]

_METRIC = "average_accuracy"
_NAIVE = "naive"
_BEST = "the best other method"

_CLAUSES: tuple[dict[str, str], ...] = (
    {
        "above naive": "beats naive training beyond noise",
        "near naive": "is within noise of naive training",
        "below naive": "is behind naive training beyond noise",
    },
    {
        "first": "is ahead of every other method",
        "ahead": f"is ahead of {_BEST}",
        "level": f"is within noise of {_BEST}",
        "behind": f"is behind {_BEST}",
    },
    {
        "higher": f"has a higher mean than {_BEST}",
        "equal": f"has the same mean as {_BEST}",
        "lower": f"has a lower mean than {_BEST}",
    },
    {
        "same": "is within noise of each of its variants",
        "apart": "differs from a variant beyond noise",
    },
    {"alone": "has nothing to be compared with", "lost": "has no finished run"},
)
_RANKS = (*_CLAUSES[1], *_CLAUSES[2], *_CLAUSES[-1])
_FEW = 2  # the clause on parts with too few seeds
_COUNTS = {2: "both", 3: "all three", 4: "all four", 5: "all five", 6: "all six"}


@dataclass(frozen=True)
class _Claim:
    kind: str
    part: "PartResult"
    size: str = ""


def answer(parts: Sequence["PartResult"], focal: str | None, title: str) -> str:
    """Say how a method does against naive training and against the best of the others.

    Args:
        parts: The parts of a study.
        focal: Name of the method; None where the study has none that others are compared with.
        title: The method's name in reports.

    Returns:
        One sentence. Ahead and behind mean beyond noise; the size in parentheses is that of the
        difference to the best other method or to a variant, with its interval where it is beyond
        noise.
    """
    if focal is None:
        return "The study names no method that its others could be compared with."
    claims = [claim for part in parts for claim in _claims(part, focal)]
    if all(claim.kind in _CLAUSES[-1] for claim in claims):
        return f"No finished run of {title} can be compared with another method yet."
    ranks = [claim for claim in claims if claim.kind in _RANKS]
    if ranks and all(claim.kind == "first" for claim in ranks):
        claims = [claim for claim in claims if claim.kind not in _CLAUSES[0]]
    names = heads(parts)
    single = len(parts) == 1
    throughout = all_stand_ins(parts)

    def place(found: Sequence[_Claim]) -> str:
        if single:
            return f" ({found[0].size})" if found[0].size else ""
        if len(found) == len(parts) and not any(c.size for c in found) and len(parts) in _COUNTS:
            return f" on {_COUNTS[len(parts)]} parts"
        return f" on {text.enumerate_words([_inside(names[c.part.name], c.size) for c in found])}"

    clauses = [_clause(phrases, claims, place) for phrases in _CLAUSES]
    lead = f"with too few seeds (fewer than {MIN_SEEDS}) to tell noise, "
    subject, said = title, []
    for number, clause in enumerate(clauses):
        if clause:
            said.append(f"{lead if number == _FEW else ''}{subject} {clause}")
            subject = "it"
    head = "In average accuracy"
    if single or throughout:
        head += f" on {names[parts[0].name]}," if single else ", on streams that are all stand-ins,"
    elif said[0].startswith("with"):
        head += ","
    return f"{head} {_refer_back('; '.join(said))}."


def heads(parts: Sequence["PartResult"]) -> dict[str, str]:
    """Name parts in few words, where they stand side by side.

    Args:
        parts: The parts of a study.

    Returns:
        By the part's name a short title. It says "stand-in", except where that holds for all of
        several parts: then it is to be said once for all of them.
    """
    short = short_names(parts)
    if all_stand_ins(parts):
        return short
    return {p.name: label(short[p.name], bool(p.stand_in_for)) for p in parts}


def all_stand_ins(parts: Sequence["PartResult"]) -> bool:
    """Say whether there are several parts and each stands in for another stream."""
    return len(parts) > 1 and all(part.stand_in_for for part in parts)


def label(title: str, stand_in: bool) -> str:
    """Add to a title that its stream stands in for another, where it does not say so itself.

    Example:
        >>> label("Glyphs", True), label("Glyphs (8 alphabets)", True)
        ('Glyphs (stand-in)', 'Glyphs (8 alphabets; stand-in)')
    """
    return _inside(title, "stand-in") if stand_in and "stand-in" not in title.lower() else title


def short_names(parts: Sequence["PartResult"]) -> dict[str, str]:
    """Shorten titles as far as the parts stay apart: without a closing parenthesis, to a colon.

    Args:
        parts: The parts of a study.

    Returns:
        A short title by the part's name.
    """
    titles = {part.name: part.part.title for part in parts}
    found = titles
    for shorten in (
        lambda title: re.sub(r"\s*\([^()]*\)$", "", title),
        lambda title: title.split(":")[0],
    ):
        shorter = {name: shorten(title) or title for name, title in found.items()}
        if len(set(shorter.values())) == len(titles):
            found = shorter
    return found


def _clause(
    phrases: dict[str, str],
    claims: Sequence[_Claim],
    place: Callable[[Sequence[_Claim]], str],
) -> str:
    found = {kind: [c for c in claims if c.kind == kind] for kind in phrases}
    said = [f"{phrases[kind]}{place(here)}" for kind, here in found.items() if here]
    return text.enumerate_words(said) if len(said) != 2 else ", and ".join(said)


def _inside(name: str, size: str) -> str:
    if not size:
        return name
    return f"{name[:-1]}; {size})" if name.endswith(")") else f"{name} ({size})"


def _refer_back(sentence: str) -> str:
    """Name naive training and the best other method once; after that each is "it"."""
    for words in ("naive training", _BEST):
        head, found, rest = sentence.partition(words)
        sentence = head + found + rest.replace(f" {words}", " it")
    return sentence


def _claims(part: "PartResult", focal: str) -> list[_Claim]:
    ours = part.method(focal)
    if ours is None:
        return []
    found = {c.other: c for c in part.comparisons if c.metric.key == _METRIC}
    variants = _variants(part, focal)
    if not ours.runs or not found:
        return variants or [_Claim("alone" if ours.runs else "lost", part)]

    def mean(comparison: "Comparison") -> float:
        other = part.method(comparison.other)
        return other.estimates[_METRIC].mean if other else float("-inf")

    best = max(found.values(), key=mean)
    if not best.paired.difference.is_interval:
        return [_few(part, best)]
    claims = variants
    if _NAIVE in found and found[_NAIVE].paired.difference.is_interval:
        kinds = {True: "above naive", None: "near naive", False: "below naive"}
        claims.append(_Claim(kinds[found[_NAIVE].better], part))
    if found.keys() != {_NAIVE}:
        claims.append(_rank(part, best, all(c.better for c in found.values())))
    return claims


def _variants(part: "PartResult", focal: str) -> list[_Claim]:
    found = [c for c in part.variants if c.ours == focal and c.metric.key == _METRIC]
    if not found or not all(c.paired.difference.is_interval for c in found):
        return []
    apart = [
        f"{_title(part, c)}, {text.points_interval(c.paired.difference)} points"
        for c in found
        if c.better is not None
    ]
    return [_Claim("apart" if apart else "same", part, "; ".join(apart))]


def _rank(part: "PartResult", best: "Comparison", first: bool) -> _Claim:
    title, difference = _title(part, best), best.paired.difference
    if best.better is None:
        return _Claim("level", part, f"{title}, {text.points(difference.mean)} points")
    size = f"{title}, {text.points_interval(difference)} points"
    if first:
        return _Claim("first", part, f"next is {size}")
    return _Claim("ahead" if best.better else "behind", part, size)


def _few(part: "PartResult", best: "Comparison") -> _Claim:
    mean = best.paired.difference.mean
    kind = "equal" if mean == 0 else "higher" if mean > 0 else "lower"
    return _Claim(kind, part, f"{_title(part, best)}, {text.points(mean)} points")


def _title(part: "PartResult", comparison: "Comparison") -> str:
    other = part.method(comparison.other)
    return other.title if other else comparison.other
