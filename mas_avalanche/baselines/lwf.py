r"""Learning without Forgetting: keep the answers of the old heads on the new data.

A copy of the model as it stood before the experience, the teacher, answers every mini-batch with
the heads of the old tasks; the student is asked to keep these answers while it learns the new task
(Li & Hoiem, 2016; softened outputs as in Hinton et al., 2015):

.. math::
    L = L_\text{new} + \alpha \sum_{o \in \text{old}} T^2 \, \frac{1}{N} \sum_{n=1}^N
        \operatorname{KL}\bigl(p_o^T(x_n; \theta^*) \,\|\, p_o^T(x_n; \theta)\bigr),
    \qquad p^T = \operatorname{softmax}(z / T).

The divergence has the gradient of the paper's cross-entropy of softened outputs and is 0 where the
student agrees with the teacher.

What the paper leaves open, and what is done here:

- *Factor T²*: in Hinton et al., not in the formula of Li & Hoiem. It keeps the gradient's size when
  the temperature changes, so that α means the same for every T.
- *Several old tasks*: the divergences of the old heads are summed, each a mean over the
  mini-batch, so that α is the paper's λ_o for each of them.
- *Teacher*: the model after the last experience, in evaluation mode and without gradients. It sees
  the mini-batch as the student does, augmentation included.
- *One head for all tasks* (domain- or class-incremental): the outputs of all classes seen before
  are distilled, those of new classes are left out of both softmaxes.
- *Warm-up*: off by default. With ``warmup_epochs``, the first epochs of an experience train only
  the parameters that came with it. They count as epochs of the experience, so that every method
  trains as long.
- *Weight decay and learning rate*: left to the optimizer.

References:
    Li and Hoiem (2016), Learning without Forgetting, ECCV.
    Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from avalanche.models.utils import is_multi_task_module
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mas_avalanche.state import check_state

__all__ = ["LwFPlugin", "distillation_loss"]

SINGLE_HEAD = 0

_FORMAT = 1
_KEYS = frozenset({"teacher", "seen", "known", "epoch", "frozen"})


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Measure how far the student's softened outputs are from the teacher's.

    Args:
        student: Logits of shape ``(N, C)``.
        teacher: Logits of shape ``(N, C)``.
        temperature: Both are divided by it before the softmax.

    Returns:
        The Kullback-Leibler divergence from student to teacher, a mean over samples, times
        the square of the temperature.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0]])
        >>> float(distillation_loss(logits, logits))
        0.0
        >>> round(float(distillation_loss(torch.zeros(1, 2), logits, temperature=1.0)), 4)
        0.3278
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return divergence * temperature**2


@dataclass(frozen=True)
class _HeadCall:
    """One call of a multi-head module: what went in, what came out."""

    module: MultiTaskModule
    features: Tensor
    output: Any


class _Recorder:
    """Notes the calls of all multi-head modules of a model while it is attached."""

    def __init__(self) -> None:
        self.calls: list[_HeadCall] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, model: nn.Module) -> None:
        self.detach()
        self.calls = []
        for module in model.modules():
            if isinstance(module, MultiTaskModule):
                self._handles.append(module.register_forward_hook(self._note))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if arguments:
            self.calls.append(_HeadCall(module, arguments[0], output))

    def innermost(self, output: Any) -> _HeadCall | None:
        """Find the deepest module whose result is the model's own ``output``.

        An inner module returns before the outer one, so the first such call is the deepest.
        """
        return next((call for call in self.calls if call.output is output), None)


@contextmanager
def _recording(model: nn.Module) -> Iterator[_Recorder]:
    recorder = _Recorder()
    recorder.attach(model)
    try:
        yield recorder
    finally:
        recorder.detach()


def _head_outputs(
    model: nn.Module, x: Tensor, heads: Iterable[int], call: _HeadCall | None
) -> dict[int, Tensor]:
    """Compute the outputs of ``heads``, from the features of ``call`` if there is one."""
    module: Any = getattr(model, "module", model)  # it may be wrapped for data parallelism
    features = x
    if call is not None:
        module, features = call.module, call.features
    return {head: module.forward_single_task(features, head) for head in heads}


def _seen_classes(experience: Any, *, multi_head: bool) -> dict[int, set[int]]:
    """List the classes of an experience, by head."""
    data = experience.dataset
    targets = torch.as_tensor(list(data.targets))
    if not multi_head:
        return {SINGLE_HEAD: set(targets.tolist())}
    labels = torch.as_tensor(list(data.targets_task_labels))
    return {label: set(targets[labels == label].tolist()) for label in set(labels.tolist())}


class LwFPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Learning without Forgetting (Li & Hoiem, 2016), one head a task or one for all.

    Args:
        alpha: Weight of the distillation loss of each old head; the paper's λ_o. 0 is the naive
            strategy.
        temperature: Temperature of the softened outputs; 2 in the paper.
        warmup_epochs: How many of an experience's first epochs train only the parameters that
            came with it (a new head), as in the paper's warm-up step. Where an experience brings
            no new parameters there is no warm-up.

    Raises:
        ValueError: If ``alpha`` is negative or not finite, ``temperature`` is not positive and
            finite, or ``warmup_epochs`` is negative.

    Attributes:
        teacher: The model after the last experience, None before the first ends.
        seen: For each head (task label; 0 for a model with a single head) the classes learned.
        value: Weighted distillation loss of the last mini-batch.

    Note:
        Where the heads are an Avalanche ``MultiTaskModule`` whose result is the result of the
        model, the old heads are fed with the features of the training pass itself: no second pass
        through the trunk, and dropout and batch normalisation act once.
    """

    def __init__(
        self, alpha: float = 1.0, temperature: float = 2.0, *, warmup_epochs: int = 0
    ) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"Expected `alpha` to be finite and not negative, got {alpha}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(
                f"Expected `temperature` to be finite and positive, got {temperature}."
            )
        if warmup_epochs < 0:
            raise ValueError(f"Expected `warmup_epochs` to be 0 or more, got {warmup_epochs}.")
        self.alpha = alpha
        self.temperature = temperature
        self.warmup_epochs = warmup_epochs
        self.teacher: nn.Module | None = None
        self.seen: dict[int, list[int]] = {}
        self.value = torch.zeros(())
        self._recorder = _Recorder()
        self._known: set[str] = set()
        self._epoch = 0
        self._frozen: list[str] = []
        self._teacher_state: dict[str, Tensor] | None = None

    def num_stored(self) -> int:
        """Count the numbers kept beside the model between experiences."""
        if self.teacher is None:
            return 0
        kept = (*self.teacher.parameters(), *self.teacher.buffers())
        return sum(tensor.numel() for tensor in kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's weights and what it knows, as plain tensors, numbers and strings.

        Returns:
            A dictionary that ``torch.load(..., weights_only=True)`` reads back, valid between any
            two iterations.
        """
        teacher = self._teacher_state
        if self.teacher is not None:
            teacher = dict(self.teacher.state_dict())
        return {
            "format": _FORMAT,
            "teacher": teacher,
            "seen": {head: list(classes) for head, classes in self.seen.items()},
            "known": sorted(self._known),
            "epoch": self._epoch,
            "frozen": list(self._frozen),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the constructor's options stay.

        The teacher is put together at the start of the next training, as a copy of the strategy's
        model with the weights of the state. So the model has to have the heads that it had at the
        end of the last experience, and no more; which values it holds does not matter.

        Args:
            state: A dictionary from :meth:`state_dict`. One from the middle of an experience is
                loaded after ``before_training_epoch``, and once before training for the teacher.

        Raises:
            ValueError: If it is not one.
        """
        check_state(state, _KEYS, _FORMAT)
        self.seen = {int(head): list(classes) for head, classes in state["seen"].items()}
        self._known = set(state["known"])
        self._epoch = int(state["epoch"])
        self._frozen = list(state["frozen"])
        if state["teacher"] is None:
            self.teacher, self._teacher_state = None, None
        elif self.teacher is not None and _shapes(self.teacher.state_dict()) == _shapes(
            state["teacher"]
        ):
            self.teacher.load_state_dict(state["teacher"])
        else:
            self.teacher, self._teacher_state = None, dict(state["teacher"])

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Put the teacher of a loaded state together."""
        if self._teacher_state is not None:
            self.teacher = _freeze_copy(strategy.model)
            self.teacher.load_state_dict(self._teacher_state)
            self._teacher_state = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Start counting the epochs of the experience."""
        self._epoch = 0
        if self.teacher is not None and 0 < strategy.train_epochs <= self.warmup_epochs:
            raise ValueError(
                f"Expected `warmup_epochs` to be smaller than the strategy's `train_epochs` "
                f"({strategy.train_epochs}), got {self.warmup_epochs}. The old parameters would "
                f"never be trained."
            )

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Freeze the old parameters at the start of a warm-up, free them at its end."""
        if self._epoch == 0 and self.warmup_epochs > 0 and self.teacher is not None:
            self._freeze(strategy.model)
        elif self._epoch == self.warmup_epochs:
            self._unfreeze(strategy.model)
        self._epoch += 1

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Watch the heads, so that the trunk's features can be used again."""
        if self._is_active() and is_multi_task_module(strategy.model):
            self._recorder.attach(strategy.model)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Stop watching the heads."""
        self._recorder.detach()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the distillation loss to the loss of the new task."""
        if not self._is_active() or self.teacher is None:
            self.value = torch.zeros(())
            return
        student = self._student_outputs(strategy)
        targets = self._teacher_outputs(strategy)
        loss = self._sum_over_heads(student, targets) * self.alpha
        self._recorder.calls = []
        self.value = loss.detach()
        strategy.loss += loss

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take the model as the next experience's teacher and note the classes it knows."""
        self._unfreeze(strategy.model)
        self.teacher = _freeze_copy(strategy.model)
        self._known = {name for name, _ in strategy.model.named_parameters()}
        multi_head = is_multi_task_module(strategy.model)
        for head, classes in _seen_classes(strategy.experience, multi_head=multi_head).items():
            self.seen[head] = sorted(classes.union(self.seen.get(head, [])))

    def _is_active(self) -> bool:
        return self.teacher is not None and self.alpha > 0 and not self._frozen

    def _student_outputs(self, strategy: Any) -> dict[int, Tensor]:
        if not is_multi_task_module(strategy.model):
            return {SINGLE_HEAD: strategy.mb_output}
        call = self._recorder.innermost(strategy.mb_output)
        return _head_outputs(strategy.model, strategy.mb_x, self.seen, call)

    @torch.no_grad()
    def _teacher_outputs(self, strategy: Any) -> dict[int, Tensor]:
        teacher, x = self.teacher, strategy.mb_x
        if teacher is None:
            raise RuntimeError("Expected a teacher, got none. Train an experience first.")
        if not is_multi_task_module(teacher):
            return {SINGLE_HEAD: teacher(x)}
        labels = torch.full_like(strategy.mb_task_id, next(iter(self.seen)))
        with _recording(teacher) as recorder:
            call = recorder.innermost(teacher(x, labels))
        return _head_outputs(teacher, x, self.seen, call)

    def _sum_over_heads(
        self, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]
    ) -> Tensor:
        losses = [
            distillation_loss(
                _columns(student[head], classes),
                _columns(teacher[head], classes),
                self.temperature,
            )
            for head, classes in self.seen.items()
        ]
        return torch.stack(losses).sum()

    def _freeze(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        if not any(name not in self._known for name in parameters):
            return
        self._frozen = [
            name for name, p in parameters.items() if name in self._known and p.requires_grad
        ]
        for name in self._frozen:
            parameters[name].requires_grad_(False)

    def _unfreeze(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name in self._frozen:
            parameters[name].requires_grad_(True)
        self._frozen = []


def _freeze_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _columns(logits: Tensor, classes: Sequence[int]) -> Tensor:
    return logits if len(classes) == logits.shape[1] else logits[:, list(classes)]
