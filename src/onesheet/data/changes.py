"""What a new version of the data brings: checks, differences from the former one, figures; as a page of Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from onesheet.data.split import FRACTIONS, SPLITS, group_near_identical
from onesheet.data.stats import draw_genres_before_and_now, write_figures

if TYPE_CHECKING:
    from onesheet.data.manifest import Entry, Manifest

PAGE: Final = "report.md"
NUMBERS: Final = "report.json"

Verdict = Literal["ok", "warning", "failed"]

# A genre's share in a split may differ from the split's own by a fifth, or by as many posters as chance would have.
_SHARE_TOLERANCE: Final = 0.2
_DEVIATIONS: Final = 3.0
# Names in a sentence; the others are counted.
_NAMED: Final = 5
# Of all films: more in quarantine are worth a look.
_QUARANTINE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a new version is held to.

    Attributes:
        name: What is looked at.
        verdict: `failed` is a reason not to take the version.
        found: In words.
    """

    name: str
    verdict: Verdict
    found: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Ids of films that differ between two versions.

    Attributes:
        added: Only in the new one.
        removed: Only in the former one.
        relabelled: Of other genres now.
        replaced: With another picture now.
        moved: In another split now.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    replaced: tuple[str, ...]
    moved: tuple[str, ...]


def changes_between(former: Manifest, now: Manifest) -> Changes:
    """What became of each film."""
    before, after = ({entry.id: entry for entry in manifest.entries} for manifest in (former, now))
    both = sorted(before.keys() & after.keys())

    def differing(attribute: str) -> tuple[str, ...]:
        return tuple(film for film in both if getattr(before[film], attribute) != getattr(after[film], attribute))

    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        relabelled=differing("genres"),
        replaced=differing("sha256"),
        moved=tuple(film for film in differing("split") if before[film].split and after[film].split),
    )


def checks_of(manifest: Manifest, former: Manifest | None) -> list[Check]:
    """Labels, pictures and leaks; with a former version also what must not change."""
    found = [_quarantine(manifest), _conflicts(manifest), _leaks(manifest), _balance(manifest)]
    if former is not None:
        found += [_sides(former, manifest), _genres(former, manifest)]
    return found


def write_change_report(manifest: Manifest, former: Manifest | None, out: Path) -> tuple[Path, list[Check]]:
    """Write `report.md`, `report.json` and the figures into the folder `out`; no poster is shown.

    Args:
        manifest: Of the new version.
        former: Of the version before; None: there is none.
        out: Folder; created if need be.

    Returns:
        The page, and the checks on it.
    """
    figures = write_figures(manifest, out, posters=False)
    checks = checks_of(manifest, former)
    changes = changes_between(former, manifest) if former else None
    if former:
        figures.insert(0, out / "before-and-now.png")
        draw_genres_before_and_now(former, manifest).savefig(figures[0])
    numbers: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "former": former.fingerprint if former else None,
        "posters": manifest.counts(),
        "checks": [asdict(check) for check in checks],
        "changes": asdict(changes) if changes else None,
    }
    (out / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    page = out / PAGE
    page.write_text("\n".join(_page(manifest, former, checks, changes, figures)) + "\n", encoding="utf-8")
    return page, checks


def _quarantine(manifest: Manifest) -> Check:
    aside = [entry for entry in manifest.entries if entry.split is None]
    share = len(aside) / len(manifest.entries)
    reasons = Counter(problem.partition(":")[0] for entry in aside for problem in entry.problems)
    told = "; ".join(f"{count} {name}" for name, count in reasons.most_common())
    verdict: Verdict = "warning" if share > _QUARANTINE else "ok"
    return Check("films set aside", verdict, f"{len(aside)} ({share:.1%})" + (f": {told}" if told else ""))


def _conflicts(manifest: Manifest) -> Check:
    films = [entry.id for entry in manifest.entries if any(each.startswith("rows disagree") for each in entry.problems)]
    return Check("rows that disagree", "warning" if films else "ok", _named(films))


def _leaks(manifest: Manifest) -> Check:
    """The same picture, or nearly, on two sides."""
    entries = [entry for entry in manifest.entries if entry.split]
    groups = group_near_identical(np.array([int(entry.phash or "0", 16) for entry in entries], np.uint64))
    sides: dict[int, set[str | None]] = {}
    for entry, group in zip(entries, groups.tolist(), strict=True):
        sides.setdefault(group, set()).add(entry.split)
    torn = [entries[group].id for group, splits in sides.items() if len(splits) > 1]
    return Check("near-identical pictures on two sides", "failed" if torn else "ok", _named(torn))


def _balance(manifest: Manifest) -> Check:
    """Genres whose share in a split is not the split's own."""
    total = manifest.targets().sum(axis=0)
    uneven = []
    for split, fraction in zip(SPLITS, FRACTIONS, strict=True):
        targets = manifest.split(split).targets().reshape(-1, len(manifest.genres))
        chance = _DEVIATIONS * np.sqrt(np.maximum(total, 1) * fraction * (1 - fraction))
        allowed = np.maximum(chance, _SHARE_TOLERANCE * fraction * total)
        off = np.abs(targets.sum(axis=0) - fraction * total) > allowed
        uneven += [f"{manifest.genres[index]} in {split}" for index in np.flatnonzero(off)]
    return Check("genres spread evenly over the splits", "warning" if uneven else "ok", _named(uneven))


def _sides(former: Manifest, now: Manifest) -> Check:
    """What was trained on must not judge: another split makes every comparison with older models unfair."""
    trained = {entry.id for entry in former.entries if entry.split == "train"}
    judging = [entry.id for entry in now.entries if entry.split in ("validation", "test") and entry.id in trained]
    return Check("training films that judge now", "failed" if judging else "ok", _named(judging))


def _genres(former: Manifest, now: Manifest) -> Check:
    gone = [genre for genre in former.genres if genre not in now.genres]
    new = [genre for genre in now.genres if genre not in former.genres]
    told = [*(f"{genre} is gone" for genre in gone), *(f"{genre} is new" for genre in new)]
    return Check("genres", "failed" if gone else "warning" if new else "ok", _named(told))


def _named(things: Sequence[str]) -> str:
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return f"{len(things)}: {', '.join(things[:_NAMED])}{more}" if things else "none"


def _page(
    manifest: Manifest,
    former: Manifest | None,
    checks: Sequence[Check],
    changes: Changes | None,
    figures: Sequence[Path],
) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in manifest.counts().items())
    yield f"## Data {manifest.fingerprint[:12]}"
    yield ""
    yield f"{len(manifest.entries)} films: {counts}." + (f" Before: {former.fingerprint[:12]}." if former else "")
    yield ""
    yield "| check | | found |"
    yield "|---|---|---|"
    for check in checks:
        verdict = check.verdict if check.verdict == "ok" else f"**{check.verdict}**"
        yield f"| {check.name} | {verdict} | {_cell(check.found)} |"
    if changes and former:
        yield ""
        yield "| films | |"
        yield "|---|---|"
        for name, films in asdict(changes).items():
            yield f"| {name} | {_cell(_named(films))} |"
        yield ""
        yield from _genre_rows(former, manifest)
    for figure in figures:
        yield ""
        yield f"![{figure.stem.replace('-', ' ')}]({figure.name})"


def _genre_rows(former: Manifest, now: Manifest) -> Iterator[str]:
    before, after = (_genre_counts(manifest.entries) for manifest in (former, now))
    yield "| genre | films before | now | |"
    yield "|---|---:|---:|---:|"
    for genre in sorted(before | after, key=lambda genre: -after[genre]):
        if change := after[genre] - before[genre]:
            yield f"| {_cell(genre)} | {before[genre]} | {after[genre]} | {change:+d} |"


def _genre_counts(entries: Sequence[Entry]) -> Counter[str]:
    return Counter(genre for entry in entries if entry.split for genre in entry.genres)


def _cell(text: str) -> str:
    """Names come from files of others: none ends a cell or begins a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
