"""The plot of scale.py: what was measured beside the model, and what the model says of more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(predictions: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the plot.

    Args:
        predictions: cases with their points, as scale.py makes them.
        runs: measured ones, with the model's and the ideal seconds.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    names = [f"{run['mode']}\n{run['unit_s']:g} s" for run in runs]
    places = range(len(runs))
    for shift, key, label in (
        (-0.27, "ideal_s", "ideal"),
        (0.0, "iteration_s", "measured"),
        (0.27, "model_s", "model"),
    ):
        left.bar([place + shift for place in places], [run[key] for run in runs], width=0.25, label=label)
    left.set_xticks(list(places), names)
    left.set_ylabel("seconds of an iteration")
    left.set_title("Light workers on this machine")
    left.legend()
    for case in predictions:
        sizes = [point["rollout_workers"] for point in case["points"]]
        right.plot(sizes, [point["motions_per_gpu_s"] for point in case["points"]], marker="o", label=case["case"])
    right.set_xscale("log", base=2)
    ticks = [point["rollout_workers"] for point in predictions[0]["points"]]
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.set_ylim(bottom=0)
    right.set_xlabel("rollout workers")
    right.set_ylabel("motions a second per GPU of all pools")
    right.set_title("Predicted by the model")
    right.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
