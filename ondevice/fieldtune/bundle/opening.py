"""A bundle on disk: opened only when every file is there, whole, unaltered and inside the bundle."""

import dataclasses
import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

from fieldtune.bundle.manifest import (
    ADAPTER_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileSpec,
    ImageSpec,
    Manifest,
    TextSpec,
)
from fieldtune.bundle.manifest_reading import read_manifest
from fieldtune.errors import CorruptFile, InvalidBundle, listed

TOKENIZER_NAME = "tokenizer.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: its folder and its manifest."""

    root: Path
    manifest: Manifest

    def graph_path(self, name: str) -> Path:
        """Return the path of a graph's .onnx file.

        Raises:
            InvalidBundle: if the bundle has no such graph.
        """
        if name not in self.manifest.graphs:
            raise InvalidBundle(f"{self.root}: has no graph {name!r}; it has {', '.join(self.manifest.graphs)}")
        return self.root / self.manifest.graphs[name].path

    @property
    def adapter_path(self) -> Path:
        """The folder of the initial adapter."""
        return self.root / ADAPTER_NAME

    @property
    def weights_path(self) -> Path:
        """The file of the frozen weights."""
        return self.root / WEIGHTS_NAME

    def check_trainable(self) -> None:
        """Check that there is something to train.

        Raises:
            InvalidBundle: an adapter is merged into the weights.
        """
        merged = self.manifest.merged
        if merged is not None:
            raise InvalidBundle(
                f"{self.root}: the adapter {merged.adapter} is merged into its weights, and nothing is left to train; "
                "name the bundle that it was merged from"
            )

    def check_float32(self, why: str) -> None:
        """Check that the base is not packed, for what cannot be made of one that is.

        Raises:
            InvalidBundle: it is; ``why`` says what that is for.
        """
        packed = self.manifest.base.packed
        if packed is not None:
            raise InvalidBundle(
                f"{self.root}: its base is packed ({packed.recipe}), and {why}; build it with --base float32, whose "
                "adapters are the same"
            )

    @property
    def text(self) -> TextSpec:
        """How it takes texts.

        Raises:
            InvalidBundle: it takes images.
        """
        if self.manifest.text is None:
            raise InvalidBundle(f"{self.root}: is a bundle for {self.manifest.task.name}; it takes images, not texts")
        return self.manifest.text

    @property
    def image(self) -> ImageSpec:
        """How it takes images.

        Raises:
            InvalidBundle: it takes texts.
        """
        if self.manifest.image is None:
            raise InvalidBundle(f"{self.root}: is a bundle for {self.manifest.task.name}; it takes texts, not images")
        return self.manifest.image

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file, where the bundle takes texts."""
        return self.root / TOKENIZER_NAME


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle after checking every file against the manifest.

    Raises:
        InvalidBundle: not a bundle, or a manifest that cannot be read.
        UnsupportedFormat: another major version of the format.
        CorruptFile: files that are missing, altered, truncated or outside the bundle; every one is listed.
    """
    root = Path(path)
    manifest = _read(root)
    faults = [fault for name, spec in manifest.files.items() if (fault := _fault(root, name, spec))]
    named = {path for graph in manifest.graphs.values() for path in (graph.path, graph.nodes)}
    named |= {TOKENIZER_NAME} if manifest.text else set()
    named |= set(manifest.ort_training.paths) if manifest.ort_training else set()
    named |= {target.reference for target in manifest.targets.values()}
    _refuse(root, [*faults, *_unlisted(manifest, named)])
    return Bundle(root, manifest)


def open_tables(path: str | Path) -> Bundle:
    """Open a bundle of which only manifest and node tables are going to be read, after checking those.

    Raises:
        InvalidBundle: not a bundle, or a manifest that cannot be read.
        UnsupportedFormat: another major version of the format.
        CorruptFile: node tables that are missing, altered, truncated or outside the bundle; every one is listed.
    """
    root = Path(path)
    manifest = _read(root)
    named = {graph.nodes for graph in manifest.graphs.values()}
    tables = {name: spec for name, spec in manifest.files.items() if name in named}
    faults = [fault for name, spec in tables.items() if (fault := _fault(root, name, spec))]
    _refuse(root, [*faults, *_unlisted(manifest, named)])
    return Bundle(root, manifest)


def _read(root: Path) -> Manifest:
    manifest_path = root / MANIFEST_NAME
    try:
        if not manifest_path.is_file():
            reason = "no such folder" if not root.is_dir() else f"no {MANIFEST_NAME} in it"
            raise InvalidBundle(
                f"{root}: not a bundle ({reason}); make one with: fieldtune-offline build MODEL --out {root}"
            )
        text = manifest_path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{manifest_path}: not UTF-8 text ({error}); copy the bundle again") from error
    except OSError as error:
        raise CorruptFile(f"{manifest_path}: cannot be read ({error.strerror}); copy the bundle again") from error
    return read_manifest(text, str(manifest_path))


def _unlisted(manifest: Manifest, named: AbstractSet[str]) -> list[str]:
    return [f"{name}: used, but the manifest has no digest of it" for name in sorted(named - set(manifest.files))]


def _refuse(root: Path, faults: Sequence[str]) -> None:
    if faults:
        raise CorruptFile(f"{root}: {len(faults)} faulty file(s); copy or build the bundle again{listed(faults)}")


def file_spec(path: Path) -> FileSpec:
    """Return the digest and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileSpec(sha256=digest.hexdigest(), size_bytes=path.stat().st_size)


def _fault(root: Path, name: str, spec: FileSpec) -> str | None:
    try:
        return _difference(root, name, spec)
    except (OSError, RuntimeError, ValueError) as error:  # no right to read it; a loop of links; a zero in the name
        return f"{name}: cannot be read ({error})"


def _difference(root: Path, name: str, spec: FileSpec) -> str | None:
    relative = PurePosixPath(name)
    # A link could lead out of the bundle as surely as dots do, so the resolved path decides.
    if relative.is_absolute() or ".." in relative.parts or not (root / name).resolve().is_relative_to(root.resolve()):
        return f"{name}: leads out of the bundle"
    path = root / name
    if not path.is_file():
        return f"{name}: missing"
    size = path.stat().st_size
    if size != spec.size_bytes:
        return f"{name}: {size} bytes; expected {spec.size_bytes}"
    digest = file_spec(path).sha256
    return None if digest == spec.sha256 else f"{name}: altered (sha256 {digest[:12]}…; expected {spec.sha256[:12]}…)"
