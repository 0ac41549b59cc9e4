"""The command `rllib-nbsp state`: what runs have saved, and whether it is whole."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rllib_nbsp.state.bundle import NAME, Manifest, read_bundle, read_manifest
from rllib_nbsp.state.packing import StateError


def main(argv: Sequence[str]) -> int:
    """Run it.

    Returns:
        0; 3 if a state is damaged or there is none.
    """
    parser = argparse.ArgumentParser(prog="rllib-nbsp state", description="What runs have saved to go on from.")
    parser.add_argument("verb", choices=["verify", "show"], help="read all of it and check it; or say what it is of")
    parser.add_argument("path", type=Path, help="a study, a trial, a checkpoint, or one state in them")
    options = parser.parse_args(argv)
    folders = _bundles(options.path)
    if not folders:
        print(f"error: {options.path}: no state of an unfinished run is here", file=sys.stderr)
        return 3
    damaged = 0
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            if options.verb == "verify":
                read_bundle(folder)
                print(f"{folder}: whole, environment step {manifest.env_steps:,}, {_size(manifest)}")
            else:
                print("\n".join(_shown(folder, manifest)))
        except StateError as error:
            damaged += 1
            print(f"error: {error}", file=sys.stderr)
    return 3 if damaged else 0


def _bundles(path: Path) -> list[Path]:
    """The bundles at or below a path."""
    if NAME.fullmatch(path.name):
        return [path] if path.is_dir() else []
    return sorted(folder for folder in path.rglob("bundle_*") if NAME.fullmatch(folder.name) and folder.is_dir())


def _shown(folder: Path, manifest: Manifest) -> list[str]:
    identity = manifest.identity
    settings = identity.get("settings") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (identity.get("versions") or {}).items())
    names = ("experiment", "sequence", "arm", "method")
    lines = [
        f"{folder}: environment step {manifest.env_steps:,}, {_size(manifest)}",
        f"  run       {', '.join(str(settings.get(name)) for name in names)}, seed {identity.get('seed')}",
        f"  settings  {identity.get('config_hash')}",
        f"  written   {versions}",
    ]
    for name, part in manifest.parts.items():
        lines.append(f"  {name:9} {part.json_file.bytes + part.npz_file.bytes:,} bytes")
    for name, segments in manifest.series.items():
        rows = f"rows {segments[0].first:,} to {segments[-1].end:,}" if segments else "no rows"
        lines.append(f"  {name:9} {rows}, {sum(one.bytes for one in segments):,} bytes in {len(segments)} segments")
    return lines


def _size(manifest: Manifest) -> str:
    parts = sum(part.json_file.bytes + part.npz_file.bytes for part in manifest.parts.values())
    rows = sum(one.bytes for segments in manifest.series.values() for one in segments)
    return f"{(parts + rows) / 1e6:,.1f} MB"
