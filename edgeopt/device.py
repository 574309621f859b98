"""Device profiles: one TOML file each, read by path, never imported.

    name = "host"                 # lower-case kebab, the file's own name
    aliases = ["this-machine"]
    kind = "host"                 # host: this machine; board: another machine; preset: integer kernels only
    description = "…"
    runtime = "onnxruntime"
    preset = "auto"               # which integer preset quantization follows; "auto" only for the host
    threads = 1

    [quantization]                # presets only
    activation_dtype = "uint8"    # uint8 or int8
    activation_symmetric = false
    weight_dtype = "int8"
    weight_per_channel = true
    weight_bits = 8               # 2 to 8
    bias_dtype = "int32"          # int32 or float32

    [sources]                     # one entry for each number of the file, by its path
    "quantization.weight_bits" = "…"

Every number has its unit in its key.
"""

from __future__ import annotations

import difflib
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeopt.errors import DeviceError

KINDS = ("host", "board", "preset")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_MAX_BYTES = 1_000_000
_REQUIRED = object()

_TOP: dict[str, tuple[type, Any]] = {  # key: type, default
    "name": (str, _REQUIRED),
    "aliases": (list, ()),
    "kind": (str, _REQUIRED),
    "description": (str, ""),
    "runtime": (str, "onnxruntime"),
    "preset": (str, None),
    "threads": (int, 1),
    "quantization": (dict, None),
    "sources": (dict, {}),
}
_QUANTIZATION: dict[str, tuple[type, Any]] = {
    "activation_dtype": (str, _REQUIRED),
    "activation_symmetric": (bool, _REQUIRED),
    "weight_dtype": (str, _REQUIRED),
    "weight_per_channel": (bool, _REQUIRED),
    "weight_bits": (int, 8),
    "bias_dtype": (str, "int32"),
}
_TYPE_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "a table"}


@dataclass(frozen=True)
class Quantization:
    """What the integer kernels of a device want.

    Attributes:
        activation_dtype: ``uint8`` or ``int8``.
        activation_symmetric: Whether the zero point of activations must be the middle of the range.
        weight_dtype: ``int8`` or ``uint8``; int8 weights are symmetric.
        weight_per_channel: One scale per output channel; else one per tensor.
        weight_bits: How many bits of a weight may be used: 7 where products would saturate.
        bias_dtype: ``int32`` (scale = activation scale × weight scale) or ``float32``.
    """

    activation_dtype: str
    activation_symmetric: bool
    weight_dtype: str
    weight_per_channel: bool
    weight_bits: int = 8
    bias_dtype: str = "int32"


@dataclass(frozen=True)
class Device:
    """One profile, its preset resolved.

    Attributes:
        name: As ``--device`` takes it.
        kind: ``host``, ``board`` or ``preset``.
        runtime: Which runtime its figures are for.
        preset: The name of the integer preset; a preset names itself.
        quantization: The rules of that preset; None for a device without integer kernels.
        threads: Default number of intra-op threads.
        sources: Path of a number in the file to where it comes from.
        path: The file.
    """

    name: str
    kind: str
    runtime: str
    preset: str | None
    quantization: Quantization | None
    threads: int = 1
    description: str = ""
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None


def folder() -> Path:
    """Where the profiles lie: inside the package when installed, beside it in a checkout.

    Raises:
        DeviceError: the folder is in neither place.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "devices", package.parent / "devices"):
        if (candidate / "host.toml").is_file():
            return candidate
    raise DeviceError("the device profiles are missing from this installation", hint="reinstall edgeopt")


def known() -> list[str]:
    """Names of all profiles that come with edgeopt, sorted."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name_or_path: str | Path) -> Device:
    """The profile of that name or alias, or the one in that TOML file.

    Raises:
        DeviceError: nothing of that name, an unreadable file, or a malformed profile (all problems at once).
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return _build(Path(name_or_path))
    path = folder() / f"{text}.toml"
    if _NAME.fullmatch(text) and path.is_file():
        return _build(path)
    aliases: dict[str, str] = {}
    for name in known():
        for alias in _build(folder() / f"{name}.toml").aliases:
            aliases[alias] = name
    if text in aliases:
        return _build(folder() / f"{aliases[text]}.toml")
    close = difflib.get_close_matches(text.lower(), [*known(), *aliases], n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise DeviceError(
        f"unknown device {text!r}; known are {', '.join(known())}",
        where="--device",
        hint=f"{hint}A path of your own TOML file works too",
    )


def channel_block(cpuinfo: str | None = None, machine: str | None = None) -> int:
    """How many channels onnxruntime's blocked layout takes together on this machine.

    16 with AVX-512 and on 64-bit Arm, else 8 (MlasNchwcGetBlockSize in onnxruntime/core/mlas/lib/platform.cpp).

    Args:
        cpuinfo: Text of /proc/cpuinfo; read if None.
        machine: As ``platform.machine()``.
    """
    architecture = (machine if machine is not None else platform.machine()).lower()
    if architecture.startswith(("arm64", "aarch64")):
        return 16
    return 16 if architecture in _X86 and "avx512f" in _flags(cpuinfo) else 8


def host_preset(cpuinfo: str | None = None, machine: str | None = None) -> str:
    """The integer preset of this machine.

    x86 with VNNI (or AMX) multiplies uint8 by int8 exactly: ``x86-vnni``. Without it, pairs of products saturate
    at 16 bits: ``x86``, with 7-bit weights. Arm: ``arm``, int8 by int8. Other machines run onnxruntime's plain
    kernels, which are exact and made for the types of ``x86-vnni``.

    Args:
        cpuinfo: Text of /proc/cpuinfo; read if None. Without the file, VNNI is taken to be absent.
        machine: As ``platform.machine()``.
    """
    architecture = (machine if machine is not None else platform.machine()).lower()
    if architecture.startswith(("arm", "aarch64")):
        return "arm"
    if architecture not in _X86:
        return "x86-vnni"
    return "x86-vnni" if _VNNI & _flags(cpuinfo) else "x86"


def _flags(cpuinfo: str | None) -> set[str]:
    """What /proc/cpuinfo says the processor can; nothing where there is no such file."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            cpuinfo = ""
    flags = next((line.split(":", 1)[1] for line in cpuinfo.splitlines() if re.match(r"flags\s*:", line)), "")
    return set(flags.split())


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DeviceError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if len(raw) > _MAX_BYTES:
        raise DeviceError(f"larger than {_MAX_BYTES} bytes, so no device profile", where=str(path))
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DeviceError(f"not valid TOML: {error}", where=str(path)) from error


def _build(path: Path) -> Device:
    table = _read(path)
    problems: list[str] = []
    top = _check_table(table, _TOP, "$", problems)
    rules = top["quantization"]
    quantization = None if rules is None else _quantization(rules, problems)
    _check_meaning(top, path, problems)
    _check_sources(table, top["sources"], problems)
    if problems:
        raise DeviceError("; ".join(problems), where=str(path))
    preset = top["preset"]
    if top["kind"] == "preset":
        preset = top["name"]
    elif preset is not None:
        preset = host_preset() if preset == "auto" else preset
        if preset not in known() or (rule := _build(folder() / f"{preset}.toml")).kind != "preset":
            raise DeviceError(f"$.preset: {preset!r} is no integer preset", where=str(path))
        quantization = rule.quantization
    return Device(
        name=top["name"],
        kind=top["kind"],
        runtime=top["runtime"],
        preset=preset,
        quantization=quantization,
        threads=top["threads"],
        description=top["description"],
        aliases=tuple(top["aliases"]),
        sources=dict(top["sources"]),
        path=path,
    )


def _check_table(
    table: Mapping[str, Any], schema: Mapping[str, tuple[type, Any]], where: str, problems: list[str]
) -> dict[str, Any]:
    """Values by key with defaults filled in; what is wrong is noted, and the default stands in for it."""
    for key in table.keys() - schema.keys():
        close = difflib.get_close_matches(key, schema, n=1)
        problems.append(f"{where}.{key}: unknown key" + (f", did you mean {close[0]}?" if close else ""))
    result: dict[str, Any] = {}
    for key, (kind, default) in schema.items():
        value = table.get(key, default)
        if value is _REQUIRED:
            problems.append(f"{where}.{key}: missing")
            value = kind()
        elif key in table and type(value) is not kind:  # bool is an int, but no number of threads
            problems.append(f"{where}.{key}: expected {_TYPE_NAMES[kind]}, found {value!r}")
            value = kind() if default is _REQUIRED else default
        result[key] = value
    return result


def _quantization(table: Mapping[str, Any], problems: list[str]) -> Quantization:
    before = len(problems)
    rules = _check_table(table, _QUANTIZATION, "$.quantization", problems)
    if len(problems) == before:
        for key, allowed in (
            ("activation_dtype", ("uint8", "int8")),
            ("weight_dtype", ("int8", "uint8")),
            ("weight_bits", range(2, 9)),
            ("bias_dtype", ("int32", "float32")),
        ):
            if rules[key] not in allowed:
                choices = " or ".join(map(str, allowed))
                problems.append(f"$.quantization.{key}: expected {choices}, found {rules[key]!r}")
    return Quantization(**rules)


def _check_meaning(top: Mapping[str, Any], path: Path, problems: list[str]) -> None:
    for key, name in (("name", top["name"]), *((f"aliases[{i}]", a) for i, a in enumerate(top["aliases"]))):
        if not isinstance(name, str) or (name and not _NAME.fullmatch(name)):
            problems.append(f"$.{key}: expected lower-case words joined by hyphens, found {name!r}")
    kind = top["kind"]
    if kind and kind not in KINDS:
        problems.append(f"$.kind: expected {', '.join(KINDS)}, found {kind!r}")
    if kind == "preset" and top["quantization"] is None:
        problems.append("$.quantization: missing, a preset consists of it")
    if kind in ("host", "board") and top["quantization"] is not None:
        problems.append("$.quantization: only a preset has this table; name one with $.preset")
    if kind == "preset" and top["preset"] is not None:
        problems.append("$.preset: a preset names no other")
    if kind == "board" and top["preset"] == "auto":
        problems.append("$.preset: auto is for the host only")
    if top["threads"] < 1:
        problems.append(f"$.threads: expected at least 1, found {top['threads']}")
    if path.parent == folder() and top["name"] and top["name"] != path.stem:
        problems.append(f"$.name: expected the file's name {path.stem!r}, found {top['name']!r}")


def _check_sources(table: Mapping[str, Any], sources: Mapping[str, Any], problems: list[str]) -> None:
    numbers = set(_numbers({k: v for k, v in table.items() if k != "sources"}))
    problems += [f'$.sources."{key}": missing, every number has a source' for key in sorted(numbers - sources.keys())]
    problems += [f'$.sources."{key}": the file has no such number' for key in sorted(sources.keys() - numbers)]
    problems += [
        f'$.sources."{key}": expected a string, found {value!r}'
        for key, value in sources.items()
        if not (isinstance(value, str) and value)
    ]


def _numbers(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{prefix}{key}")
    return found
