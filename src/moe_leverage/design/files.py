"""A file or folder as people have it, read into plain values: a byte mark and NaN are no faults."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_leverage.rules import require

IN_A_FOLDER = ("config.json", "params.json")


def find(source: str) -> Path:
    """The file that a path names, or the config in the folder that it names."""
    path = Path(source)
    if not path.is_dir():
        return path
    inside = [path / name for name in IN_A_FOLDER if (path / name).is_file()]
    rule = f"is a directory without a {' or a '.join(IN_A_FOLDER)}"
    require(bool(inside), "CONFIG", source, rule)
    return inside[0]


def parse(path: Path) -> dict[str, Any]:
    """What a file holds: JSON, or TOML, YAML or the arguments of a command line.

    Raises ValueError naming the file; Infinity and NaN stay what they are, wherever they stand.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: is not UTF-8 text") from error
    try:
        return _read(path, text)
    except RecursionError:
        raise ValueError(f"{path.name}: is nested deeper than any config") from None


def _read(path: Path, text: str) -> dict[str, Any]:
    """The text in the format that the file's name or its first characters say."""
    if path.suffix == ".toml":
        return _toml(path, text)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path, text)
    if re.match(r"\s*(#|--[a-z])", text):
        return _arguments(path, text)
    try:
        raw = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: is not JSON: {error}") from error
    return _object(path, raw)


def _object(path: Path, raw: Any) -> dict[str, Any]:
    require(isinstance(raw, Mapping), path.name, type(raw).__name__, "must hold a JSON object")
    return dict(raw)


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: is not TOML: {error}") from error
    model = raw.get("model")
    return dict(model) if isinstance(model, Mapping) else raw


def _yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"{path.name}: needs PyYAML, which is not installed") from error
    try:
        return _object(path, yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: is not YAML: {' '.join(str(error).split())}") from error


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys has one value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        rule = f"is given again as {value!r:.40}"
        require(
            key not in found or found[key] == value, f"{path.name}: {key}", found.get(key), rule
        )
        found[key] = value
    return found


def _arguments(path: Path, text: str) -> dict[str, Any]:
    """`--num-layers 32 --swiglu` as values by name; a flag without a value is true."""
    found: dict[str, Any] = {}
    name = ""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ValueError(f"{path.name}: is no line of arguments: {error}") from error
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = _value(value) if value else True
        elif name:
            found[name] = _value(word)
    return found


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word
