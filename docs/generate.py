"""Write the pages of docs/reference/ that say what the code says: `inv docs`, or `python docs/generate.py`.

They are kept in the repository, so that they can be read there and a change of them is seen; a test keeps them so.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"

# What stands in for Typer's own names of types.
_TYPES = {"<str>": "TEXT", "<path>": "PATH", "<Path>": "PATH", "<file>": "FILE", "<dir>": "DIR"}


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The pages by their names."""
    return {
        "cli.md": cli_page(),
        "http.md": http_page(),
        "bundle.md": bundle_page(),
        "configuration.md": configuration_page(),
    }


# ------------------------------------------------------------------------------------------- the command line


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        """# Command line

Every command has `--help`, with an example. Settings come from [the environment](../settings.md); an option wins over
them. What a person reads goes to standard output, progress and complaints to standard error. `--json`, where there is
one, is for programs: its keys stay.

| exit code | |
|---|---|
| 0 | all done |
| 1 | something failed, and one line says what; `predict` has answered the other posters all the same |
| 2 | wrong usage |
| 130 | Ctrl-C |

This page is written by `inv docs` from the commands themselves.
"""
    ]
    for path, command, context in commands():
        if path:
            parts.append("\n".join(_command(path, command, context)) + "\n")
    return "\n".join(parts)


def commands() -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every command that is shown, with its names below `onesheet` and its context; groups before what is in them."""
    import typer

    from onesheet.cli import app

    def walk(command: Any, path: tuple[str, ...], parent: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
        context = command.context_class(command, info_name=path[-1] if path else "onesheet", parent=parent)
        yield path, command, context
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                yield from walk(inner, (*path, name), context)

    yield from walk(typer.main.get_command(app), (), None)


def _command(path: tuple[str, ...], command: Any, context: Any) -> Iterator[str]:
    yield f"{'#' * (1 + len(path))} onesheet {' '.join(path)}"
    yield ""
    yield _wrapped(command.help)
    if hasattr(command, "commands"):
        return
    yield from ("", "```", command.get_usage(context).removeprefix("Usage: ").replace("{", "").replace("}", ""), "```")
    rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    if rows:
        yield from ("", "| | |", "|---|---|")
        yield from (f"| `{_cell(_typed(names))}` | {_cell(_flat(said))} |" for names, said in rows)
    if command.epilog:
        yield from ("", f"Example: `{command.epilog.removeprefix('Example: ')}`")


def _typed(names: str) -> str:
    """An option as Typer shows it, with the word for its type in capitals."""
    for theirs, ours in _TYPES.items():
        names = names.replace(theirs, ours)
    names = re.sub(r"<list\[(\w+)\]>", "...", names)
    names = re.sub(r"<(int|float)(?: range)?>", "NUMBER", names)
    return re.sub(r"<([^<>]*)>", lambda choice: "DATE" if "%" in choice[1] else choice[1], names)


# ------------------------------------------------------------------------------------------------------- HTTP


def http_page() -> str:
    """Every route, and every kind of error."""
    from onesheet.serving.app import create_app
    from onesheet.settings import Settings

    document = create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    rows = [
        f"| [`{method} {path}`](#{_anchor(method, path)}) | {operation['summary']} |"
        for method, path, operation in operations
    ]
    parts = [
        """# HTTP

A running service has this as an OpenAPI document at `/openapi.json`, and to try it in a browser at `/docs`. How it
behaves under load, and what was tried on it, is in [Serving](../serving.md).

- Posters are sent as `multipart/form-data`; what is read is decided by their content, never by their name.
- Every error is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem, `application/problem+json`, whose `type`
  is stable. 429 and 503 carry `Retry-After`.
- Every answer carries `X-Request-ID`: yours, or a new one. It is in the service's log.
- Where `ONESHEET_API_KEYS` is set, the key goes into `X-API-Key`, or into `Authorization: Bearer`.

```json
{"type": "/problems/not_an_image", "title": "Not an image", "status": 400,
 "detail": "the file is not a JPEG, PNG, WebP or GIF picture", "instance": "/predict"}
```

This page is written by `inv docs` from the routes themselves.

## Routes

| | |
|---|---|
"""
        + "\n".join(rows)
        + "\n"
    ]
    parts += ["\n".join(_operation(*operation, document)) + "\n" for operation in operations]
    parts.append("\n".join(_problems(document)) + "\n")
    return "\n".join(parts)


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^\w\s-]", "", f"{method} {path}".lower()).replace(" ", "-")


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {method} {path}", "", _wrapped(operation.get("description") or operation["summary"]))
    parameters = operation.get("parameters", [])
    if parameters:
        yield from ("", "| parameter | | |", "|---|---|---|")
        for parameter in parameters:
            said = parameter.get("description") or parameter["schema"].get("description", "")
            yield f"| `{parameter['name']}` | {_schema(parameter['schema'])} | {_cell(_flat(said))} |"
    bodies = operation.get("requestBody", {}).get("content", {})
    for kind, body in bodies.items():
        yield from ("", f"Body, `{kind}`: {_fields(body['schema'], document)}.")
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            shown = [
                f"`{kind}`" + (f" with {fields}" if (fields := _fields(content.get("schema", {}), document)) else "")
                for kind, content in response.get("content", {}).items()
            ]
            yield from ("", f"Answer, {status}: {'; '.join(shown) or 'nothing'}.")
    refused = sorted(status for status in operation["responses"] if not status.startswith("2"))
    if refused:
        yield from ("", f"Problems: {', '.join(refused)}.")


def _fields(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """The names of an object's fields."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return ", ".join(f"`{name}`" for name in schema.get("properties", {}))


def _schema(schema: Mapping[str, Any]) -> str:
    """A type with its range and its default, in few words."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    said = kind.get("format", kind.get("type", ""))
    if said == "array":
        said = f"{kind['items']['type']}, may be repeated"
    low, over, high = (kind.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    limits = [
        *([f"from {low}"] if low is not None else [f"above {over}"] if over is not None else []),
        *([f"to {high}"] if high is not None else []),
    ]
    default = [f"default {schema['default']}"] if "default" in schema else []
    return ", ".join([said, *([" ".join(limits)] if limits else []), *default])


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    found: dict[str, tuple[int, str]] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                examples = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
                for example in examples.values():
                    value = example["value"]
                    found[value["type"]] = value["status"], value["title"]
    yield from ("## Problems", "", "| `type` | status | |", "|---|---:|---|")
    for kind, (status, title) in sorted(found.items(), key=lambda item: (item[1][0], item[0])):
        yield f"| `{kind}` | {status} | {title} |"


# ------------------------------------------------------------------------------------------------- the bundle


def bundle_page() -> str:
    """The files of a bundle, and the fields of bundle.json."""
    from onesheet.bundle import SCHEMA_VERSION, BundleMetadata, Calibration, DataSummary
    from onesheet.image import PreprocessSpec

    head = f"""# The bundle

A folder, or a `.tar.gz` of it, at most 64 files and 1 GiB together. Data only, never a pickle. What it is for is in
[Why there is a bundle](../explanation/why-the-bundle.md).

| file | holds |
|---|---|
| `bundle.json` | the fields below |
| `model.onnx` | uint8 `images [N, H, W, 3]`, RGB, in; float32 `probabilities [N, G]` and `embedding [N, D]` out |
| `model.int8.onnx` | the same contract in 8-bit integers; only where that pays |
| `reference.parquet` | a row for each validation poster: statistics, probabilities, embedding, true genres |
| `MODEL_CARD.md` | the model card in words |

`N` is any number of pictures, `G` the number of genres in the order of `genres`, `D` the length of the embedding.
Normalisation and calibration are inside the graph: pixels go in as they are.

`bundle.json` lists the sha256 of every other file; loading refuses a bundle in which one is missing or differs, and a
graph whose inputs and outputs are not these. A file that is not listed is not read.

This page is written by `inv docs` from the types that read the file.

## bundle.json, schema {SCHEMA_VERSION}
"""
    parts = [head, _model_table(BundleMetadata)]
    for heading, model in (("data", DataSummary), ("calibration", Calibration)):
        parts.append(f"\n### {heading}\n\n{_said(model)}\n\n{_model_table(model)}")
    said = _attributes(inspect.getdoc(PreprocessSpec) or "")
    rows = [
        f"| `{name}` | {_annotation(kind)} | {_cell(_flat(said[name]))} |"
        for name, kind in inspect.get_annotations(PreprocessSpec, eval_str=True).items()
    ]
    parts.append(
        "\n### preprocess\n\n" + _said(PreprocessSpec) + "\n\n" + "\n".join(["| | | |", "|---|---|---|", *rows])
    )
    parts.append(
        """
## From Python

```python
from onesheet.bundle import load_bundle

bundle = load_bundle("starter")
print(bundle.metadata.name, bundle.metadata.version, len(bundle.metadata.genres), sorted(bundle.files))
```

From another language: check the hashes, resize the picture as `preprocess` says, run `model.onnx`, and compare each
probability with its threshold. `onesheet export` writes a bundle, `onesheet registry verify` tries one.
"""
    )
    return "\n".join(parts)


def _said(model: type) -> str:
    """The first paragraph of a class."""
    return _flat((inspect.getdoc(model) or "").split("\n\n")[0])


def _model_table(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_annotation(field.annotation)} | {_cell(_flat(field.description or _FIELDS.get(name, '')))} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| | | |", "|---|---|---|", *rows])


# Fields that the model leaves to their names.
_FIELDS = {
    "schema_version": "Of this format; another one is refused.",
    "name": "Of the model, such as `starter`.",
    "version": "Of the model, such as `0.2.0`.",
    "created": "When it was exported, UTC.",
    "git_commit": "That exported it.",
    "data": "What it was trained on, see below.",
    "genres": "In the order of the probabilities.",
    "preprocess": "How a picture becomes the input, see below.",
    "thresholds": "By genre: the probability from which on it is said, 0 to 1.",
    "calibration": "What became part of the graph, see below.",
    "method": "`none`, or Platt's.",
    "scale": "For each genre.",
    "shift": "For each genre.",
}


def _annotation(kind: Any) -> str:
    """A type in the words of JSON."""
    words = {str: "text", int: "integer", float: "number", Any: "anything", type(None): "null"}
    origin, inner = get_origin(kind), get_args(kind)
    if kind in words:
        return words[kind]
    if origin is dict:
        return f"object of {_annotation(inner[1])}"
    if origin in (tuple, list):
        return f"list of {_annotation(inner[0])}"
    if origin is not None and "Literal" in str(origin):
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin is not None and "Annotated" in str(kind):
        return _annotation(inner[0])
    if inner:
        return " or ".join(map(_annotation, inner))
    return "date and time" if kind.__name__ == "datetime" else "object"


# ---------------------------------------------------------------------------------------------- configuration


def configuration_page() -> str:
    """The groups of configs/, and every knob of a training; read as text, for nothing that trains is installed."""
    tree = ast.parse((ROOT / "src/onesheet/training/config.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    parts = [
        """# Configuration

Of a training: `onesheet train`, `pretrain` and `sweep` take a choice from a group (`loss=asymmetric`) and values of
knobs (`optimizer.lr=3e-4`) behind the command; `onesheet train --show` prints all of it as it would be used. How they
are put together is in [Training](../training.md#configuration). What services and commands read from the environment is
in [Settings](../settings.md), what runs at Google in [`configs/cloud.yaml`](../../configs/cloud.yaml), and what a model
has to reach in [`configs/gates.yaml`](../../configs/gates.yaml).

This page is written by `inv docs` from `configs/` and the types that check them.

## Groups

| choice | |
|---|---|
"""
        + "\n".join(_choices())
        + """

The choices that hold by default are in [`configs/config.yaml`](../../configs/config.yaml). The tables below have what a
knob is where no file of a group sets it.
""",
    ]
    for name, prefix in _SECTIONS.items():
        parts.append("\n".join(_knobs(classes[name], prefix)) + "\n")
    return "\n".join(parts)


_SECTIONS = {
    "TrainConfig": "",
    "DataConfig": "data.",
    "ModelConfig": "model.",
    "OptimizerConfig": "optimizer.",
    "LossConfig": "loss.",
    "AugmentConfig": "augment.",
    "TrainerConfig": "trainer.",
    "LoggerConfig": "logger.",
    "MlflowConfig": "logger.mlflow.",
    "WandbConfig": "logger.wandb.",
}


def _choices() -> Iterator[str]:
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*.yaml")):
            lines = file.read_text(encoding="utf-8").splitlines()
            said = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "@package" not in line]
            # What has no words of its own is shown as it is.
            shown = "; ".join(f"`{line}`" for line in lines if line.strip() and not line.startswith("#"))
            link = f"[`{folder.name}={file.stem}`](../../configs/{folder.name}/{file.name})"
            yield f"| {link} | {_cell(_flat(' '.join(said))) or shown} |"


def _knobs(node: ast.ClassDef, prefix: str) -> Iterator[str]:
    docstring = ast.get_docstring(node) or ""
    said = _attributes(docstring)
    heading = prefix.rstrip(".") or "The run"
    yield from (f"## {heading}", "", _flat(docstring.split("\n\n")[0]), "", "| knob | default | |", "|---|---|---|")
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id in said:
            default = _default(item.value)
            shown = f"`{default}`" if default else ""
            yield f"| `{prefix}{item.target.id}` | {shown} | {_cell(_flat(said[item.target.id]))} |"


def _default(value: ast.expr | None) -> str:
    if value is None or (isinstance(value, ast.Name) and value.id == "MISSING"):
        return ""
    if isinstance(value, ast.Call):
        factory = value.keywords[0].value
        return {"list": "[]", "dict": "{}"}.get(factory.id if isinstance(factory, ast.Name) else "", "")
    text = ast.unparse(value)
    return {"True": "true", "False": "false", "None": "null"}.get(text, text.strip("'"))


# ------------------------------------------------------------------------------------------------------ words


def _attributes(docstring: str) -> dict[str, str]:
    """What a docstring of Google's style says of each attribute."""
    _, _, listed = docstring.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: _flat(text) for name, text in found}


def _flat(text: str) -> str:
    return " ".join(text.split())


def _wrapped(text: str) -> str:
    return textwrap.fill(_flat(text), 120, break_long_words=False, break_on_hyphens=False)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
