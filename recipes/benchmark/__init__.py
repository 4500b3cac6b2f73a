"""`wavenet benchmark`: two checkpoints against each other, or every inner loop, sampler and training step (`suite`)."""

from recipes.benchmark.checkpoints import Speed, benchmark, report

__all__ = ["Speed", "benchmark", "report"]
