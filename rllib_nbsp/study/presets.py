"""The presets by name: `tune_configs/`, which lies beside the package in a checkout and within it once installed."""

from __future__ import annotations

from pathlib import Path

FOLDER = "tune_configs"


def presets() -> dict[str, Path]:
    """The file of each preset by its name, such as `fast/pendulum_pair`."""
    package = Path(__file__).parents[1]
    folder = next((path for path in (package / FOLDER, package.parent / FOLDER) if path.is_dir()), None)
    if folder is None:
        return {}
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def preset_name(path: str | Path) -> str:
    """What a preset of that path would be called: `tune_configs/smoke.yaml` is `smoke`."""
    return Path(path).as_posix().removeprefix(f"{FOLDER}/").removesuffix(".yaml")


def study_file(path: str | Path) -> Path:
    """The path itself if there is a file, or else the preset of that name; relative where it lies below here."""
    preset = presets().get(preset_name(path))
    if preset is None or Path(path).is_file():
        return Path(path)
    return preset.relative_to(Path.cwd()) if preset.is_relative_to(Path.cwd()) else preset
