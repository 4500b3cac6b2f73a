"""Where the time of a run goes, operator by operator."""

import os
import time
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from recipes.benchmark.rows import Row, measured

GROUP = "shares"
SHOWN = 8  # operators; the rest is added up
OUTSIDE, OTHERS = "outside torch's operators", "others"


def shares(of: str, run: Callable[[], object]) -> list[Row]:
    """Percent of the wall time that each of torch's operators takes itself; the rest is compiled loops and Python."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells stderr that it begins and ends
    run()  # compiles, allocates, warms up
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        run()
        wall = 1e6 * (time.perf_counter() - started)  # microseconds, as the profiler's
    averages = profiler.key_averages()
    spent = {
        event.key.split("#")[-1]: float(event.self_cpu_time_total) for event in averages
    }  # "Optimizer.step#Adam.step"
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    named = dict(ordered[:SHOWN])
    named[OTHERS] = sum(time for _, time in ordered[SHOWN:])
    named[OUTSIDE] = max(0.0, wall - sum(spent.values()))
    return [measured(GROUP, {"of": of, "operator": name}, "%", [100 * time / wall]) for name, time in named.items()]
