"""A version becomes the champion, if it passes the gates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onesheet.data.manifest import MANIFEST_FILE, read_manifest
from onesheet.errors import PromotionRefusedError, RegistryError
from onesheet.refs import CHAMPION
from onesheet.registry.comparison import Contender, compare
from onesheet.registry.gates import Gate, Limits, judge
from onesheet.registry.registry import Registry, Standing

if TYPE_CHECKING:
    from onesheet.registry.comparison import Comparison, Progress
    from onesheet.registry.records import Move, Version


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a version may be the champion.

    Attributes:
        version: The one that wants to.
        champion: The one that is; None: there is none.
        standing: What was so when it was decided.
        comparison: What was measured.
        gates: Passed or not.
    """

    version: Version
    champion: Version | None
    standing: Standing
    comparison: Comparison
    gates: tuple[Gate, ...]

    @property
    def passes(self) -> bool:
        """Whether all gates are passed."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "version": self.version.number,
            "champion": self.champion.number if self.champion else None,
            "posters": self.comparison.posters,
            "passes": self.passes,
            "gates": [gate.to_dict() for gate in self.gates],
        }


def decide(
    registry: Registry,
    ref: str,
    raw: Path,
    processed: Path,
    limits: Limits,
    progress: Progress,
    *,
    against: str = CHAMPION,
    threads: int | None = None,
) -> Decision:
    """Compare a version with the champion, or with another one, and judge it.

    Args:
        registry: Holds both.
        ref: Number or alias of the version.
        raw: Folder of the posters.
        processed: Folder of their manifest.
        limits: Of the gates.
        progress: Shows each of the long steps.
        against: Number or alias of the other; where there is no champion, the version is judged alone.
        threads: Worker threads; default: the cores that this process may use.

    Raises:
        RegistryError: There is no such version, it is the same as the other, or somebody is moving the champion.
        BundleError: A bundle cannot be used.
        DataError: There are no posters to compare on.
    """
    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    standing = registry.standing(CHAMPION)
    version = registry.find(ref)
    other = None if against == CHAMPION and standing.number is None else registry.find(against)
    if other and other.number == version.number:
        raise RegistryError(f"{version} is the {against} already" if against == CHAMPION else f"both are {version}")
    comparison = compare(
        _contender(registry, version), _contender(registry, other) if other else None, manifest, progress, threads
    )
    return Decision(version, other, standing, comparison, tuple(judge(comparison, limits)))


def promote(registry: Registry, decision: Decision) -> Move:
    """Make the version the champion that was found good enough.

    Raises:
        PromotionRefusedError: It was not.
        MovedMeanwhileError: Somebody else moved the champion since.
    """
    failed = [gate.name for gate in decision.gates if not gate.passed]
    if failed:
        raise PromotionRefusedError(f"{decision.version} stays what it is; it does not pass: {', '.join(failed)}")
    better = next(gate for gate in decision.gates if gate.name.startswith("better"))
    reason = f"passed {len(decision.gates)} gates on {decision.comparison.posters} posters; mAP {better.challenger}"
    return registry.move(decision.standing, decision.version, "promote", reason)


def _contender(registry: Registry, version: Version) -> Contender:
    with TemporaryDirectory(prefix="onesheet-") as scratch:
        manifest = registry.fetch_manifest(version, Path(scratch))
        trained_on = read_manifest(manifest, Path(scratch)) if manifest else None
    return Contender(str(version), registry.load(version), trained_on)
