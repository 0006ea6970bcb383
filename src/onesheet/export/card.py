"""`MODEL_CARD.md`: what a model was trained on, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from onesheet.bundle import INT8_FILE, MODEL_FILE

_METRICS: Final = {
    "map_macro": "mean average precision (macro)",
    "auroc_macro": "AUROC (macro)",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "f1_samples": "F1 (samples)",
    "exact_match": "exact match",
    "hamming_loss": "Hamming loss (lower is better)",
    "ece": "expected calibration error (lower is better)",
}


def model_card(metadata: dict[str, Any], sizes: Mapping[str, int]) -> str:
    """Markdown from the fields of `bundle.json`.

    Args:
        metadata: The fields.
        sizes: Bytes of each file of the bundle.
    """
    test, floors, data = metadata["metrics"]["test"], metadata["metrics"]["baselines"], metadata["data"]
    posters = data["posters"]
    spec, parity, size = metadata["preprocess"], metadata["metrics"]["parity"], f"{sizes[MODEL_FILE] / 1e6:.1f} MB"
    return f"""# {metadata["name"]} {metadata["version"]}

Tells the genres of a film from its poster: {len(metadata["genres"])} genres, any number of them at once.

- Network: `{metadata["architecture"]}`, {size}, input {spec["height"]} x {spec["width"]} pixels
- Created {metadata["created"]:%Y-%m-%d}, commit {metadata["git_commit"] or "unknown"}
- Posters: {posters["train"]} to train, {posters["validation"]} to choose, {posters["test"]} to test; split by film,
  near-identical ones on one side; fingerprint `{data["fingerprint"][:16]}`
- Chosen on the validation posters only: calibration ({metadata["calibration"]["method"]}: a scale and a shift for each
  genre, held to those that all share), and thresholds for {metadata["threshold_aim"]}
- Torch and ONNX differ by at most {parity["max_difference"]:.1g} in any probability of {parity["posters"]} posters

## How good it is

On the {test["n"]} test posters, at the bundle's own thresholds, beside two predictors that never look at a poster: the
training frequencies as probabilities, saying the two most frequent genres; and saying every genre.

| | this model | training frequencies | every genre |
|---|---:|---:|---:|
{_metric_rows(test, floors)}

F1 (macro) counts a genre without a test poster as 0; ranking metrics leave it out.

## By genre

| genre | training posters | test posters | AP | F1 | precision | recall | threshold |
|---|---:|---:|---:|---:|---:|---:|---:|
{_genre_rows(metadata, test)}

A genre with fewer than about 20 test posters has figures that could easily be quite different on other posters.

{_int8_section(metadata["metrics"], sizes)}## What it is for, and what not

For suggesting genres of feature-film posters to a person who can correct them, for browsing, and for studying the
life of a model. Not for deciding anything about people, not for other pictures than film posters, and not as the only
source of a catalogue's genres: a poster shows what its maker wanted to sell. It knows the kind of posters it was
trained on; those of other places and times are likely to be served worse. Probabilities of rare genres are calibrated
on few posters.
"""


def _metric_rows(test: dict[str, Any], floors: dict[str, Any]) -> str:
    columns = (test, floors["training_frequencies"], floors["every_genre"])
    return "\n".join(
        f"| {title} | " + " | ".join(_number(column[name]) for column in columns) + " |"
        for name, title in _METRICS.items()
    )


def int8_sentence(saving: Mapping[str, Any]) -> str:
    """What came of the attempt to quantize, for a person."""
    if saving["left_out"]:
        return f"int8 left out: {saving['left_out']}"
    return (
        f"int8 added: {saving['speedup']:.1f} times as fast, on test posters mAP {_number(saving['test']['map_macro'])}"
    )


def _int8_section(metrics: dict[str, Any], sizes: Mapping[str, int]) -> str:
    if INT8_FILE not in sizes:
        return ""
    exact, saving = metrics["test"], metrics["int8"]
    rows = "\n".join(
        f"| {title} | {_number(exact[name])} | {_number(saving['test'][name])} |" for name, title in _METRICS.items()
    )
    return f"""## In 8-bit integers

The same graph quantized, for `--precision int8`: {saving["speedup"]:.1f} times as fast on the machine that made it.

| on the test posters | fp32 | int8 |
|---|---:|---:|
| size | {sizes[MODEL_FILE] / 1e6:.1f} MB | {sizes[INT8_FILE] / 1e6:.1f} MB |
{rows}

"""


def _genre_rows(metadata: dict[str, Any], test: dict[str, Any]) -> str:
    rows = []
    for genre in metadata["genres"]:
        scores = test["per_genre"][genre]
        figures = [scores[name] for name in ("average_precision", "f1", "precision", "recall")]
        cells = [
            str(metadata["data"]["genre_counts"][genre]),
            str(scores["positives"]),
            *map(_number, figures),
            _number(metadata["thresholds"][genre]),
        ]
        rows.append(f"| {genre} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
