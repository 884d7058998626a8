"""A W&B Report of a study: its question, and curves of its mirrored runs, part by part.

It draws what the runs hold and changes with them; the published report is the one in `reports/`.
wandb's own package wandb-workspaces writes it, where that is installed.
"""

import importlib
import importlib.util
import os
from typing import Any

from benchmarks.study import Part, Study

__all__ = ["build", "is_available", "publish"]

_CURVES = (
    ("Average accuracy of the tasks so far", "tasks_trained", "continual/average_accuracy"),
    ("Forgetting", "tasks_trained", "continual/forgetting"),
    ("Accuracy on the new task", "tasks_trained", "continual/new_task_accuracy"),
    ("Loss of the task", "epoch", "training/task_loss"),
    ("Penalty", "epoch", "training/penalty"),
)


def is_available() -> bool:
    """Say whether wandb-workspaces is installed, without importing it."""
    return importlib.util.find_spec("wandb_workspaces") is not None


def build(study: Study, entity: str, project: str) -> Any:
    """Compose the report; nothing is sent.

    Args:
        study: What it shows.
        entity: User or team that the runs and the report belong to.
        project: wandb's project that holds the runs.

    Returns:
        A `wandb_workspaces.reports.v2.Report`.
    """
    # By name: the package exports its blocks in a way that type checkers do not follow.
    wr: Any = importlib.import_module("wandb_workspaces.reports.v2")
    blocks: list[Any] = [
        wr.MarkdownBlock(text=study.question),
        wr.MarkdownBlock(
            text="Lines are means over the seeds that are reported; the runs of the choice of "
            "strengths are left out."
        ),
    ]
    if study.commentary:
        blocks.append(wr.MarkdownBlock(text=study.commentary))
    for part in study.parts:
        blocks += [wr.H2(text=part.title), _panels(wr, study, part, entity, project)]
    return wr.Report(
        project=project,
        entity=entity,
        title=study.title[:128],
        description=f"Study {study.name}",
        blocks=blocks,
        width="fluid",
    )


def publish(study: Study) -> str:
    """Write the report to the server.

    Args:
        study: What it shows.

    Returns:
        Its address.
    """
    import wandb

    entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
    project = os.environ.get("WANDB_PROJECT") or "mas-avalanche"
    return str(build(study, str(entity), project).save().url)


def _panels(wr: Any, study: Study, part: Part, entity: str, project: str) -> Any:
    conditions = {"study": study.name, "part": part.name, "role": "evaluation"}
    runs = wr.Runset(
        entity=entity,
        project=project,
        name=part.name,
        filters=" and ".join(f"Config('{key}') = '{value}'" for key, value in conditions.items()),
        groupby=["config.method"],
    )
    panels: list[Any] = [wr.BarPlot(title="Average accuracy", metrics=["average_accuracy"])]
    panels += [wr.LinePlot(title=title, x=axis, y=[name]) for title, axis, name in _CURVES]
    return wr.PanelGrid(runsets=[runs], panels=panels)
