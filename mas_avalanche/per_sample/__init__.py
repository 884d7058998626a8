r"""How :math:`\sum_n |g_n|^p` is taken without holding every sample's gradient :math:`g_n`.

- :mod:`~mas_avalanche.per_sample.trace` runs a model on two tiny mini-batches and plans its passes;
  :mod:`~mas_avalanche.per_sample.layout` says where the samples are in each tensor.
- :mod:`~mas_avalanche.per_sample.tap` follows the plan, one forward and one backward pass.
- :mod:`~mas_avalanche.per_sample.rules` knows single operations,
  :mod:`~mas_avalanche.per_sample.decompose` takes composite ones apart, and
  :mod:`~mas_avalanche.per_sample.gradients` holds the arithmetic, with a compiled
  :mod:`~mas_avalanche.per_sample.kernel` as an option.
- :mod:`~mas_avalanche.per_sample.generic` computes whatever is left with ``torch.func``.
"""
