"""onesheet tells the genres of a film from its poster.

    from onesheet import load_predictor

    predictor = load_predictor()
    print(predictor.predict("poster.jpg").predicted)

Importing this package writes nothing, reads no environment, configures no logging and loads no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onesheet.predictor import Prediction, Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "load_predictor"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `onesheet --help` does not wait for numpy and Pillow.
    if name in __all__:
        from onesheet import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
