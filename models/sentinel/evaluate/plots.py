"""Stage `evaluate`, plots: calibration, and what each candidate's quality costs. matplotlib is of
the extra `train`; without it there is no plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CALIBRATION_FILE: Final = "calibration.png"
SPEED_FILE: Final = "quality_speed.png"
_SIZE: Final = (6.4, 4.4)
_DPI: Final = 100
_MARGIN: Final = 0.01


def draw_plots(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw into the folder what the figures allow; the names of the files written."""
    try:
        import matplotlib  # noqa: PLC0415 - only in the extra train
    except ModuleNotFoundError:
        return []
    matplotlib.use("Agg")
    written = []
    if results.get("calibration"):
        _draw_calibration(results["calibration"], folder / CALIBRATION_FILE)
        written.append(CALIBRATION_FILE)
    if results.get("candidates"):
        _draw_speed(results, folder / SPEED_FILE)
        written.append(SPEED_FILE)
    return written


def _draw_calibration(curves: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415 - only in the extra train

    figure, axes = pyplot.subplots(figsize=_SIZE, dpi=_DPI)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="perfect")
    for curve, colour in zip(curves, ("C0", "C1"), strict=False):
        points = [
            (score, share, count)
            for score, share, count in zip(
                curve["scores"], curve["attacks"], curve["counts"], strict=True
            )
            if score is not None
        ]
        name = f"{curve['split']}: {sum(curve['counts'])} texts, ECE {curve['error']:.3f}"
        axes.plot(
            [point[0] for point in points], [point[1] for point in points],
            marker="o", color=colour, label=name,
        )  # fmt: skip
        for score, share, count in points:
            axes.annotate(str(count), (score, share), textcoords="offset points", xytext=(4, -10),
                          fontsize=7, color=colour)  # fmt: skip
    axes.set_xlabel("score")
    axes.set_ylabel("share of attacks among texts of that score")
    axes.set_title("Calibration (the numbers are texts in the bin)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def _draw_speed(results: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415 - only in the extra train

    figure, axes = pyplot.subplots(figsize=_SIZE, dpi=_DPI)
    shipped = results["manifest"].get("layers"), results["model"]["dims"] - 1
    for row in results["candidates"]:
        ours = (row["layers"], row["width"]) == shipped
        place = row["texts_per_second"], row["auroc"]
        axes.scatter(*place, s=row["bytes"] / 20_000, alpha=0.6, color="C1" if ours else "C0")
        axes.annotate(
            f"{row['layers']} x {row['width']}, {row['bytes'] / 1e6:.1f} MB"
            + (", shipped" if ours else ""),
            place, textcoords="offset points", xytext=(6, 4), fontsize=8,
        )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(low - _MARGIN, high + _MARGIN)  # differences in the fourth digit are none
    axes.margins(x=0.2)
    axes.set_xlabel("texts of the test a second, one thread, tokenizing included")
    axes.set_ylabel("AUROC of labelled texts of validation and test")
    axes.set_title("Layers x width of each candidate (area: size of the file)")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
