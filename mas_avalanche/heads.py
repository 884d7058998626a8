"""Heads of their own size for each task, on Avalanche's multi-task conventions."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

__all__ = ["MASKED_LOGIT", "MultiHead", "MultiHeadModel"]

# What stands in the places of classes that a head does not have, where a mini-batch mixes heads.
# It is a constant: it has no gradient, and adds nothing to any importance.
MASKED_LOGIT = -1000.0


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    """One linear layer a task, each as wide as its task needs.

    A mini-batch of one task gives that head's logits, with no padding. In a mini-batch of several
    the narrower rows are filled up with :data:`MASKED_LOGIT`.

    Args:
        in_features: Number of input features.
        num_classes: The width of the heads: a sequence or mapping by task label makes all heads at
            once; an int is the width of every head; None takes the largest class of the experience
            plus one. With an int or None a head is made when its task is first met.

    Raises:
        ValueError: If a number of classes is below 1.

    Example:
        >>> head = MultiHead(8, num_classes=[2, 5])
        >>> head(torch.zeros(3, 8), 1).shape
        torch.Size([3, 5])
        >>> head(torch.zeros(2, 8), torch.tensor([0, 1]))[0, 2:]
        tensor([-1000., -1000., -1000.], grad_fn=<SliceBackward0>)
    """

    max_class_label: int

    def __init__(
        self,
        in_features: int,
        num_classes: int | Sequence[int] | Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.heads = nn.ModuleDict()
        # Follows the model's device and dtype while there is no head yet.
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self._width: int | None = None
        self._closed = False
        if num_classes is None or isinstance(num_classes, int):
            self._width = num_classes
            sizes: Mapping[int, int] = {} if num_classes is None else {0: num_classes}
        elif isinstance(num_classes, Mapping):
            sizes = num_classes
            self._closed = True
        else:
            sizes = dict(enumerate(num_classes))
            self._closed = True
        for label, size in sizes.items():
            self._set_head(label, size)

    def adaptation(self, experience: Any) -> None:
        """Make or widen the heads that an experience needs; Avalanche calls this.

        Args:
            experience: Has ``task_labels``; its ``classes_in_this_experience`` is read only where
                the number of classes was not given.

        Raises:
            ValueError: If a task has no head and may not have one, or its size is unknown.
        """
        labels = sorted({int(label) for label in experience.task_labels})
        for label in labels:
            if self._closed:
                self._find(label)
                continue
            size = self._width if self._width is not None else _num_classes(experience)
            present = self._find(label).out_features if str(label) in self.heads else 0
            if size > present:
                self._set_head(label, size)
        if self.training:
            self.known_train_tasks_labels.update(labels)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Compute the logits.

        Args:
            x: Features of shape (samples, in_features).
            task_labels: One label for all, one a sample, or None for the heads of all tasks that
                were trained, as a dictionary.

        Returns:
            Logits of shape (samples, classes).

        Raises:
            ValueError: If a label has no head.
        """
        if task_labels is None:
            return self.forward_all_tasks(x)
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        labels = sorted(set(task_labels.tolist()))
        if len(labels) == 1:
            return self.forward_single_task(x, labels[0])
        masks = [(task_labels == label).to(x.device) for label in labels]
        parts = [
            self.forward_single_task(x[mask], label)
            for label, mask in zip(labels, masks, strict=True)
        ]
        width = max((part.shape[1] for part in parts), default=0)
        dtype = parts[0].dtype if parts else x.dtype
        logits = torch.full((len(x), width), MASKED_LOGIT, dtype=dtype, device=x.device)
        for mask, part in zip(masks, parts, strict=True):
            logits[mask] = nn.functional.pad(part, (0, width - part.shape[1]), value=MASKED_LOGIT)
        return logits

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Compute the logits of one head.

        Args:
            x: Features of shape (samples, in_features).
            task_label: The head to use.

        Returns:
            Logits of shape (samples, classes of the task).

        Raises:
            ValueError: If the label has no head.
        """
        logits: Tensor = self._find(task_label)(x)
        return logits

    def _find(self, label: int) -> nn.Linear:
        if str(label) not in self.heads:
            raise ValueError(
                f"Expected `task_labels` to name heads among "
                f"{sorted(int(name) for name in self.heads)}, got {label}. Train on the task "
                "first, or list it in `num_classes`."
            )
        return cast(nn.Linear, self.heads[str(label)])

    def _set_head(self, label: int, size: int) -> None:
        if size < 1:
            raise ValueError(
                f"Expected `num_classes` to be at least 1 for each task, got {size} for task "
                f"{label}. A head needs a class."
            )
        head = nn.Linear(self.in_features, size).to(self.get_buffer("_like"))
        if str(label) in self.heads:
            old = self._find(label)
            with torch.no_grad():
                head.weight[: len(old.weight)] = old.weight
                head.bias[: len(old.bias)] = old.bias
        self.heads[str(label)] = head
        self.max_class_label = max(self.max_class_label, size)


class MultiHeadModel(MultiTaskModule):  # type: ignore[misc]
    """A shared trunk and a head a task.

    Args:
        trunk: Maps inputs to features of shape (samples, in_features).
        in_features: Number of features that the trunk gives.
        num_classes: See :class:`MultiHead`.

    Raises:
        ValueError: If a number of classes is below 1.

    Example:
        >>> model = MultiHeadModel(nn.Linear(4, 8), 8, num_classes=[2, 3])
        >>> model(torch.zeros(1, 4), 1).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        trunk: nn.Module,
        in_features: int,
        num_classes: int | Sequence[int] | Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = MultiHead(in_features, num_classes)

    def adaptation(self, experience: Any) -> None:
        """Note the task labels; the head adapts itself."""
        if self.training:
            self.known_train_tasks_labels.update(int(label) for label in experience.task_labels)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Compute the logits, see :meth:`MultiHead.forward`; the trunk runs once."""
        return self.head(self.trunk(x), task_labels)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Compute the logits of one head."""
        return self.head.forward_single_task(self.trunk(x), task_label)

    def forward_all_tasks(self, x: Tensor) -> dict[int, Tensor]:
        """Compute the logits of every trained task's head from one pass through the trunk."""
        logits: dict[int, Tensor] = self.head.forward_all_tasks(self.trunk(x))
        return logits


def _num_classes(experience: Any) -> int:
    classes = getattr(experience, "classes_in_this_experience", None)
    if not classes:
        raise ValueError(
            "Expected the experience to list `classes_in_this_experience`, got none. Give "
            "`num_classes` to the model, or build the benchmark with a classes timeline."
        )
    return int(max(classes)) + 1
