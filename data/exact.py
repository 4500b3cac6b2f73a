"""Elementwise functions as exact on their first call as on all others, from the import of this module on.

PyTorch leaves them on a CPU to oneMKL, which chooses their code when each is called first. Where several threads do
that at once, one may compute with code that is exact to four digits only, this one time (pytorch/pytorch#188792).
"""

import torch

for _function in (
    torch.cos,
    torch.exp,
    torch.expm1,
    torch.log,
    torch.log10,
    torch.log1p,
    torch.sin,
    torch.sqrt,
    torch.tanh,
):
    for _dtype in (torch.float32, torch.float64):
        _function(torch.ones(1, dtype=_dtype))  # one element: one thread
