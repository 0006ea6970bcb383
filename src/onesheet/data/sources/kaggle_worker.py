"""Kaggle's client in a process of its own: `python -m onesheet.data.sources.kaggle_worker HANDLE ANSWER`.

The client prints, logs to stdout, takes its settings from the environment when it is imported, and waits
for ever for a silent host. Here all of that does no harm: the parent reads only the ANSWER file, and may end
the process.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path


def download(handle: str) -> dict[str, str | int]:
    """Download a data set.

    Returns:
        `path` of its folder, or `status` (of HTTP) or `error` (`unreachable` or `damaged`) with a `message`.
    """
    import kagglehub
    import requests
    from kagglehub.exceptions import DataCorruptionError, KaggleApiHTTPError

    try:
        return {"path": kagglehub.dataset_download(handle)}
    except KaggleApiHTTPError as error:
        return {
            "status": error.response.status_code if error.response is not None else 0,
            "message": str(error),
        }
    except requests.RequestException as error:
        return {"error": "unreachable", "message": str(error)}
    except (DataCorruptionError, zipfile.BadZipFile) as error:
        return {"error": "damaged", "message": str(error)}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(download(sys.argv[1])))
