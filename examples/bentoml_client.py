"""Ask a running `onesheet serve --engine bentoml` with BentoML's own client.

Example: `uv run --extra bento examples/bentoml_client.py http://127.0.0.1:8000 poster.jpg another.jpg`
"""

import argparse
import json
from pathlib import Path

import bentoml


def main() -> None:
    """Print one answer a line: files together, then each address."""
    parser = argparse.ArgumentParser(description="Genres of posters, asked of onesheet under BentoML.")
    parser.add_argument("server", help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("posters", nargs="+", help="files, or https addresses where the server allows them")
    arguments = parser.parse_args()
    addresses = [poster for poster in arguments.posters if poster.startswith("https://")]
    files = [Path(poster) for poster in arguments.posters if poster not in addresses]

    with bentoml.SyncHTTPClient(arguments.server) as client:
        answers = [client.predict(poster=files[0])] if len(files) == 1 else []
        if len(files) > 1:
            # Calls of several clients that come together go through the model together.
            answers = client.predict_many(posters=files)
        answers += [client.predict_url(image_url=address) for address in addresses]
    for answer in answers:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
