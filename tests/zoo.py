"""Awkward models as data: how they are made, what they are fed, and what no rule covers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Case:
    """A model and inputs; ``generic`` names the parameters left to the generic path."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: int | None = None
    generic: frozenset[str] | None = frozenset()

    def build(self, samples=5):
        torch.manual_seed(0)
        model = self.make().double()
        for parameter in model.parameters():  # no zero biases, no unit scales
            parameter.data += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        if self.tokens is not None:
            return model, torch.randint(self.tokens, (samples, *self.shape))
        return model, torch.randn(samples, *self.shape, dtype=torch.float64)


class Lambda(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self._forward(self, x)


def layer(module, *, flat=True):
    return lambda: nn.Sequential(module(), nn.Tanh(), *([nn.Flatten()] if flat else []))


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def _frozen():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def _buffers():
    def forward(self, x):
        self.count += len(x)
        self.last = x.detach().mean(0)
        return self.a(x * self.scale)

    model = Lambda(forward, a=nn.Linear(4, 3))
    model.register_buffer("count", torch.zeros(()))
    model.register_buffer("last", torch.zeros(4))
    model.register_buffer("scale", torch.full((4,), 2.0))
    return model


def _hooks():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[1].register_full_backward_hook(lambda module, given, arrived: (3 * given[0],))
    return model


def _transformer(**options):
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, **options)


class Vit(nn.Module):
    """Vision transformer with a class token and a position for each token."""

    def __init__(self, image=8, patch=4, width=8, depth=2, heads=2, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = parameter(1, 1, width)
        self.position = parameter(1, (image // patch) ** 2 + 1, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def _data_dependent(self, x):
    return torch.stack([self.a(row) if row.sum() > 0 else self.b(row) for row in x])


class _Double(torch.autograd.Function):
    """A custom function that neither function modes nor vmap see through."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return 2 * x * weight

    @staticmethod
    def backward(ctx, delta):
        x, weight = ctx.saved_tensors
        return 2 * delta * weight, (2 * delta * x).sum(0)


def _swin(self, x):
    windows = x.unflatten(2, (2, 2)).unflatten(4, (2, 2)).movedim((2, 4), (1, 2))
    windows = windows.reshape(-1, 3, 2, 2)  # windows of one sample follow each other
    return self.b(self.a(windows).unflatten(0, (len(x), 4)).flatten(1))


def _time_major(self, x):
    steps = x.transpose(0, 1)
    hidden = self.a(steps.reshape(-1, x.shape[-1]))  # samples of one step follow each other
    return self.b(hidden.unflatten(0, (x.shape[1], x.shape[0])).tanh().sum(0))


CASES = [
    # Linear maps
    Case("mlp", lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (4,)),
    Case("linear-3d", layer(lambda: nn.Linear(4, 3)), (5, 4)),
    Case("linear-4d-no-bias", layer(lambda: nn.Linear(4, 3, bias=False)), (2, 3, 4)),
    Case(
        "matmul",
        lambda: Lambda(
            lambda s, x: torch.tanh(x @ s.w) @ s.v.t(), w=parameter(4, 5), v=parameter(3, 5)
        ),
        (4,),
    ),
    Case(
        "bilinear",
        lambda: Lambda(lambda s, x: s.a(x[:, :2], x[:, 2:]), a=nn.Bilinear(2, 2, 3)),
        (4,),
    ),
    # Convolutions
    Case("conv1d", layer(lambda: nn.Conv1d(3, 4, 3, padding=1)), (3, 7)),
    Case(
        "conv2d-stride-dilation",
        layer(lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))),
        (3, 7, 6),
    ),
    Case("conv2d-groups", layer(lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False)), (4, 6, 5)),
    Case("conv2d-depthwise", layer(lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2)), (4, 6, 6)),
    Case(
        "conv2d-same", layer(lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=2)), (2, 6, 5)
    ),
    Case("conv2d-valid", layer(lambda: nn.Conv2d(2, 3, 3, padding="valid")), (2, 6, 5)),
    *(
        Case(
            f"conv2d-{mode}",
            layer(lambda mode=mode: nn.Conv2d(2, 3, 3, padding=2, stride=2, padding_mode=mode)),
            (2, 6, 5),
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    Case(
        "conv3d",
        layer(lambda: nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=1)),
        (2, 3, 4, 5),
    ),
    Case(
        "conv-transpose1d",
        layer(lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1)),
        (3, 5),
    ),
    Case(
        "conv-transpose2d",
        layer(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=(1, 2))),
        (4, 4, 3),
    ),
    Case("conv-transpose3d", layer(lambda: nn.ConvTranspose3d(2, 3, 2, stride=2)), (2, 2, 3, 2)),
    # Normalisations
    Case(
        "batch-norm",
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(36, 3),
            nn.BatchNorm1d(3),
        ),
        (2, 5, 5),
    ),
    Case(
        "batch-norm-1d-3d",
        lambda: nn.Sequential(
            nn.BatchNorm1d(3),
            nn.Unflatten(1, (3, 1)),
            nn.Unflatten(3, (2, 2)),
            nn.BatchNorm3d(3),
            nn.Flatten(),
        ),
        (3, 4),
    ),
    Case("layer-norm", layer(lambda: nn.LayerNorm((3, 4))), (2, 3, 4)),
    Case("group-norm", layer(lambda: nn.GroupNorm(2, 4)), (4, 3, 2)),
    Case("instance-norm", layer(lambda: nn.InstanceNorm2d(3, affine=True)), (3, 3, 4)),
    Case(
        "instance-norm-running",
        layer(lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True)),
        (3, 4),
    ),
    Case("rms-norm", layer(lambda: nn.RMSNorm(4)), (3, 4)),
    # Embeddings and activations
    Case(
        "embedding",
        lambda: nn.Sequential(nn.Embedding(6, 4, padding_idx=2), nn.Tanh(), nn.Flatten()),
        (7,),
        tokens=6,
    ),
    Case(
        "embedding-by-frequency",
        lambda: nn.Sequential(nn.Embedding(6, 4, scale_grad_by_freq=True), nn.Tanh(), nn.Flatten()),
        (7,),
        tokens=6,
    ),
    Case(
        "embedding-max-norm",
        lambda: nn.Sequential(nn.Embedding(6, 4, max_norm=1.0), nn.Tanh(), nn.Flatten()),
        (7,),
        tokens=6,
    ),
    Case("embedding-bag", lambda: nn.Sequential(nn.EmbeddingBag(6, 4), nn.Tanh()), (7,), tokens=6),
    Case("prelu", lambda: nn.Sequential(nn.PReLU(3), nn.Linear(4, 3), nn.PReLU()), (3, 4)),
    # Attention and recurrence
    Case(
        "attention-batch-first",
        lambda: Lambda(
            lambda s, x: s.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)
        ),
        (5, 8),
    ),
    Case(
        "attention-time-first",
        lambda: Lambda(
            lambda s, x: s.a(*(x.transpose(0, 1),) * 3)[0].transpose(0, 1),
            a=nn.MultiheadAttention(8, 2),
        ),
        (5, 8),
    ),
    Case(
        "attention-cross",
        lambda: Lambda(
            lambda s, x: s.a(x[..., :4], x, x[..., 2:])[0],
            a=nn.MultiheadAttention(4, 2, kdim=8, vdim=6, batch_first=True),
        ),
        (5, 8),
    ),
    Case(
        "attention-keys-shared",
        lambda: Lambda(
            lambda s, x: s.a(x[:, :2], x, x, need_weights=False)[0],
            a=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        (5, 8),
    ),
    Case(
        "attention-bias-kv",
        lambda: Lambda(
            lambda s, x: s.a(x, x, x)[0],
            a=nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        ),
        (3, 8),
    ),
    Case("transformer-layer", lambda: _transformer(batch_first=True), (5, 8)),
    Case(
        "transformer-layer-time-first",
        lambda: Lambda(
            lambda s, x: s.a(x.transpose(0, 1)).mean(0), a=_transformer(norm_first=True)
        ),
        (5, 8),
    ),
    Case(
        "transformer-decoder",
        lambda: Lambda(
            lambda s, x: s.a(x, x.flip(1)), a=nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
        ),
        (4, 8),
    ),
    Case("vit", Vit, (3, 8, 8)),
    *(
        Case(
            f"{name}-{'-'.join(options)}",
            lambda kind=kind, options=options: Lambda(
                lambda s, x: s.a(x)[0], a=kind(3, 4, batch_first=True, **options)
            ),
            (5, 3),
        )
        for name, kind, options in [
            ("lstm", nn.LSTM, {"num_layers": 2, "bidirectional": True}),
            ("lstm", nn.LSTM, {"proj_size": 2}),
            ("gru", nn.GRU, {"num_layers": 2, "bidirectional": True}),
            ("rnn", nn.RNN, {"bias": False}),
            ("rnn", nn.RNN, {"nonlinearity": "relu"}),
        ]
    ),
    Case(
        "lstm-time-first",
        lambda: Lambda(
            lambda s, x: s.b(s.a(x.transpose(0, 1))[1][0][0]), a=nn.LSTM(3, 4), b=nn.Linear(4, 2)
        ),
        (5, 3),
    ),
    Case(
        "lstm-cell",
        lambda: Lambda(lambda s, x: s.a(x[:, 1], s.a(x[:, 0]))[0], a=nn.LSTMCell(3, 4)),
        (2, 3),
    ),
    Case(
        "rnn-cell",
        lambda: Lambda(
            lambda s, x: s.a(x[:, 1], s.a(x[:, 0])), a=nn.RNNCell(3, 4, nonlinearity="relu")
        ),
        (2, 3),
    ),
    Case(
        "gru-cell",
        lambda: Lambda(lambda s, x: s.a(x[:, 1], s.a(x[:, 0])), a=nn.GRUCell(3, 4)),
        (2, 3),
    ),
    # Bare parameters
    Case(
        "scale-and-shift",
        lambda: Lambda(
            lambda s, x: (x * s.g + s.b).tanh() - s.c,
            g=parameter(4),
            b=parameter(3, 1),
            c=parameter(),
        ),
        (3, 4),
    ),
    Case(
        "token-and-position",
        lambda: Lambda(
            lambda s, x: torch.cat([s.t.expand(len(x), -1, -1), x], 1) + s.p,
            t=parameter(1, 1, 4),
            p=parameter(1, 4, 4),
        ),
        (3, 4),
    ),
    Case(
        "repeated",
        lambda: Lambda(lambda s, x: x * s.t.repeat(len(x), 2, 1), t=parameter(1, 2, 4)),
        (4, 4),
    ),
    Case(
        "einsum",
        lambda: Lambda(lambda s, x: torch.einsum("nth,hk->ntk", x, s.w).tanh(), w=parameter(4, 3)),
        (3, 4),
    ),
    Case("prototypes", lambda: Lambda(lambda s, x: -torch.cdist(x, s.p), p=parameter(3, 4)), (4,)),
    Case("where", lambda: Lambda(lambda s, x: torch.where(x > 0, x, s.p), p=parameter(4)), (3, 4)),
    Case(
        "written-in-place",
        lambda: Lambda(lambda s, x: (x * 1).mul_(s.p).add_(1), p=parameter(4)),
        (4,),
        generic=frozenset({"p"}),
    ),
    # Parameters used more than once
    Case(
        "module-twice",
        lambda: Lambda(lambda s, x: s.a(torch.tanh(s.a(x))), a=nn.Linear(4, 4)),
        (4,),
    ),
    Case(
        "conv-twice",
        lambda: Lambda(lambda s, x: s.a(s.a(x).relu_()), a=nn.Conv2d(3, 3, 3, padding=1)),
        (3, 5, 4),
    ),
    Case(
        "conv-two-sizes",
        lambda: Lambda(lambda s, x: s.a(s.a(x)).flatten(1), a=nn.Conv2d(3, 3, 3)),
        (3, 6, 5),
    ),
    Case(
        "siamese",
        lambda: Lambda(
            lambda s, x: s.a(x[:, 0]) - s.a(x[:, 1]),
            a=nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)),
        ),
        (2, 4),
    ),
    Case("weight-of-two-modules", lambda: _shared_weight(), (4,)),
    Case(
        "tied-embedding",
        lambda: Lambda(
            lambda s, x: F.linear(s.e(x).tanh().sum(1), s.e.weight), e=nn.Embedding(6, 4)
        ),
        (5,),
        tokens=6,
    ),
    Case(
        "used-outside",
        lambda: Lambda(
            lambda s, x: s.a(x) + F.linear(x.square(), s.a.weight) + s.a.weight.sum(),
            a=nn.Linear(4, 3),
        ),
        (4,),
    ),
    Case(
        "transposed-autoencoder",
        lambda: Lambda(lambda s, x: F.linear(s.a(x).tanh(), s.a.weight.t()), a=nn.Linear(4, 3)),
        (4,),
    ),
    Case(
        "slices",
        lambda: Lambda(
            lambda s, x: F.linear(x[:, :2], s.w[:, :2]) * F.linear(x[:, 2:], s.w[:, 2:]),
            w=parameter(3, 4),
        ),
        (4,),
    ),
    Case(
        "overlapping-slices",
        lambda: Lambda(
            lambda s, x: F.linear(x[:, :3], s.w[:, :3]) * F.linear(x[:, 1:], s.w[:, 1:]),
            w=parameter(3, 4),
        ),
        (4,),
    ),
    Case(
        "weight-norm",
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 5)),
            nn.Tanh(),
            parametrizations.weight_norm(nn.Linear(5, 3)),
        ),
        (4,),
    ),
    Case(
        "spectral-norm",
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), nn.Flatten()),
        (2, 4, 4),
    ),
    Case(
        "mixed-experts",
        lambda: Lambda(
            lambda s, x: F.linear(x, torch.softmax(s.m, 0)[0] * s.a.weight + s.b.weight),
            a=nn.Linear(4, 3, bias=False),
            b=nn.Linear(4, 3, bias=False),
            m=parameter(2),
        ),
        (4,),
    ),
    # Branches, folds and the rest
    Case(
        "residual",
        lambda: Lambda(
            lambda s, x: s.b(F.relu(s.a(x)) + x) + s.c(x),
            a=nn.Linear(4, 4),
            b=nn.Linear(4, 3),
            c=nn.Linear(4, 3),
        ),
        (4,),
    ),
    Case("frozen", _frozen, (4,)),
    Case("unused", lambda: Lambda(lambda s, x: s.a(x), a=nn.Linear(4, 3), b=nn.Linear(2, 2)), (4,)),
    Case(
        "not-reaching-output",
        lambda: Lambda(lambda s, x: (s.b(x), s.a(x))[1], a=nn.Linear(4, 3), b=nn.Linear(4, 2)),
        (4,),
    ),
    Case(
        "detached-branch",
        lambda: Lambda(lambda s, x: s.a(x) + s.b(x).detach(), a=nn.Linear(4, 3), b=nn.Linear(4, 3)),
        (4,),
    ),
    Case(
        "no-grad-branch",
        lambda: Lambda(
            lambda s, x: s.a(x) + _no_grad(s.b, x), a=nn.Linear(4, 3), b=nn.Linear(4, 3)
        ),
        (4,),
    ),
    Case("buffers", _buffers, (4,)),
    Case("hooks", _hooks, (4,)),
    Case("windows", lambda: Lambda(_swin, a=nn.Conv2d(3, 2, 2), b=nn.Linear(8, 3)), (3, 4, 4)),
    Case(
        "time-major-fold", lambda: Lambda(_time_major, a=nn.Linear(4, 5), b=nn.Linear(5, 3)), (3, 4)
    ),
    Case(
        "tuple-output",
        lambda: Lambda(lambda s, x: (s.a(x), [s.b(x)]), a=nn.Linear(4, 3), b=nn.Linear(4, 2)),
        (4,),
    ),
    Case(
        "dict-output",
        lambda: Lambda(lambda s, x: {"a": s.a(x), "b": s.a(x).sin()}, a=nn.Linear(4, 3)),
        (4,),
    ),
    Case(
        "checkpointed",
        lambda: Lambda(
            lambda s, x: torch.utils.checkpoint.checkpoint(s.a, x, use_reentrant=False),
            a=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
        ),
        (4,),
        generic=None,
    ),
    Case(
        "custom-function",
        lambda: Lambda(lambda s, x: s.a(_Double.apply(x, s.w)), a=nn.Linear(4, 3), w=parameter(4)),
        (4,),
        generic=frozenset({"w"}),
    ),
    Case(
        "data-dependent",
        lambda: Lambda(_data_dependent, a=nn.Linear(4, 3), b=nn.Linear(4, 3)),
        (4,),
        generic=None,
    ),
    Case(
        "loop-over-samples",
        lambda: Lambda(lambda s, x: torch.stack([s.a(row) for row in x]), a=nn.Linear(4, 3)),
        (4,),
        generic=None,
    ),
    Case(
        "packed-sequence",
        lambda: Lambda(_packed, a=nn.GRU(3, 4, batch_first=True)),
        (4, 3),
        generic=None,
    ),
]


def _shared_weight():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def _no_grad(module, x):
    with torch.no_grad():
        return module(x)


def _packed(self, x):
    lengths = 1 + (x[:, 0, 0] > 0).long() + 2 * (x[:, 0, 1] > 0).long()
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return self.a(packed)[1][0]


def case(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def tensors(case: Case, samples: int = 5) -> tuple[nn.Module, Tensor]:
    return case.build(samples)
