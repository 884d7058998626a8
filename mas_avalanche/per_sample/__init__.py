r"""How :math:`\sum_n |g_n|^p` is taken without holding every sample's gradient :math:`g_n`.

:mod:`~mas_avalanche.per_sample.tap` runs the model once and collects, at each operation that reads
a trainable parameter, its input and the gradient of its output; :mod:`rules` turns the two into the
sum for an operation it knows; :mod:`generic` computes whatever is left with ``torch.func``.
"""
