"""Device profiles: those that come with edgeopt, a user's own, and everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt import device
from edgeopt.device import Quantization, host_preset, known, load
from edgeopt.errors import DeviceError

BOARD = """
name = "my-board"
aliases = ["mine"]
kind = "board"
description = "a board"
preset = "arm"
threads = 2
[sources]
"threads" = "data sheet"
"""

PRESET = """
name = "my-preset"
kind = "preset"
[quantization]
activation_dtype = "uint8"
activation_symmetric = false
weight_dtype = "int8"
weight_per_channel = true
weight_bits = 8
bias_dtype = "int32"
[sources]
"quantization.weight_bits" = "manual"
"""


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_profiles_load_under_their_names_and_aliases() -> None:
    names = known()
    assert {"host", "arm", "x86", "x86-vnni"} <= set(names)
    taken = set(names)
    for name in names:
        found = load(name)
        assert found.name == name
        assert found.description
        for alias in found.aliases:
            assert alias not in taken, f"{alias} names two devices"
            taken.add(alias)
            assert load(alias) == found


def test_the_host_follows_the_machine() -> None:
    found = load("host")
    assert (found.kind, found.runtime, found.threads) == ("host", "onnxruntime", 1)
    assert found.preset == host_preset()
    assert found.quantization == load(found.preset or "").quantization


def test_presets() -> None:
    assert load("x86-vnni").quantization == Quantization("uint8", False, "int8", True, 8, "int32")
    assert load("x86").quantization == Quantization("uint8", False, "int8", True, 7, "int32")
    assert load("arm").quantization == Quantization("int8", False, "int8", True, 8, "int32")
    assert load("arm-u8").quantization == Quantization("uint8", False, "uint8", True, 8, "int32")
    assert load("arm").preset == "arm"


CPU = "processor\t: 0\nmodel name\t: x\nflags\t\t: fpu avx2 {}\nvmx flags\t: avx_vnni\n"


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "avx512_vnni", "x86-vnni"),
        ("AMD64", "avx_vnni", "x86-vnni"),
        ("x86_64", "amx_int8", "x86-vnni"),
        ("x86_64", "avx512f", "x86"),  # only the "flags" line counts
        ("aarch64", "", "arm"),
        ("armv7l", "", "arm"),
        ("arm64", "", "arm"),
        ("riscv64", "", "x86-vnni"),
    ],
)
def test_preset_of_a_machine(machine: str, flags: str, expected: str) -> None:
    assert host_preset(CPU.format(flags), machine) == expected


def test_without_cpuinfo_the_safe_preset_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert host_preset(machine="x86_64") == "x86"
    assert host_preset("", "x86_64") == "x86"


def test_a_file_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, BOARD)
    found = load(path)
    assert (found.name, found.kind, found.threads, found.preset) == ("my-board", "board", 2, "arm")
    assert found.quantization == load("arm").quantization
    assert found.sources == {"threads": "data sheet"}
    assert found.path == path
    assert load(str(path)) == found
    monkeypatch.chdir(tmp_path)
    assert load("my.toml").name == "my-board"
    assert load(write(tmp_path, PRESET)).quantization == Quantization("uint8", False, "int8", True)
    assert load(write(tmp_path, 'name = "plain"\nkind = "board"')).quantization is None


def test_unknown_names() -> None:
    with pytest.raises(DeviceError, match=r"unknown device 'hots'; known are arm, arm-u8, host, x86") as caught:
        load("hots")
    assert "did you mean host" in str(caught.value)
    with pytest.raises(DeviceError) as caught:
        load("zzzzzz")
    assert "did you mean" not in str(caught.value)
    assert "TOML file works too" in str(caught.value)
    with pytest.raises(DeviceError, match="unknown device 'HOST'") as caught:
        load("HOST")
    assert "did you mean host" in str(caught.value)
    with pytest.raises(DeviceError, match="unknown device ''"):
        load("")
    with pytest.raises(DeviceError, match="cannot be read"):
        load("../host")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read") as caught:
        load(tmp_path / "absent.toml")
    assert caught.value.where == str(tmp_path / "absent.toml")
    with pytest.raises(DeviceError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(DeviceError, match=r"not valid TOML.*line 2"):
        load(write(tmp_path, "\nname = = 1"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(DeviceError, match="not valid TOML"):
        load(tmp_path / "latin.toml")
    with pytest.raises(DeviceError, match="larger than 1000000 bytes"):
        load(write(tmp_path, "#" * 1_000_001))
    with pytest.raises(DeviceError, match="not valid TOML"):
        load(write(tmp_path, "a = " + "[" * 100_000))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "my-preset"\n', "", "$.name: missing"),
        ('"my-preset"', '"My Preset"', "$.name: expected lower-case words joined by hyphens, found 'My Preset'"),
        ('"my-preset"', "7", "$.name: expected a string, found 7"),
        ('kind = "preset"', 'kind = "chip"', "$.kind: expected host, board, preset, found 'chip'"),
        ('kind = "preset"', 'kind = "preset"\naliases = "x"', "$.aliases: expected a list, found 'x'"),
        ('kind = "preset"', 'kind = "preset"\naliases = [1]', "$.aliases[0]: expected lower-case words"),
        ('kind = "preset"', 'kind = "preset"\nthread = 1', "$.thread: unknown key, did you mean threads?"),
        ('kind = "preset"', 'kind = "preset"\nzzz = ""', "$.zzz: unknown key"),
        ('kind = "preset"', 'kind = "preset"\nthreads = true', "$.threads: expected an integer, found True"),
        ('kind = "preset"', 'kind = "preset"\nthreads = 0', "$.threads: expected at least 1, found 0"),
        ('kind = "preset"', 'kind = "preset"\nthreads = 2', '$.sources."threads": missing, every number has a source'),
        ('kind = "preset"', 'kind = "preset"\npreset = "arm"', "$.preset: a preset names no other"),
        ('kind = "preset"', 'kind = "board"', "$.quantization: only a preset has this table"),
        ('kind = "preset"', 'kind = "board"\npreset = "auto"', "$.preset: auto is for the host only"),
        ('"uint8"', '"float16"', "$.quantization.activation_dtype: expected uint8 or int8, found 'float16'"),
        ('weight_dtype = "int8"', 'weight_dtype = "int4"', "$.quantization.weight_dtype: expected int8 or uint8"),
        ("weight_bits = 8", "weight_bits = 9", "$.quantization.weight_bits: expected 2 or 3"),
        ("weight_bits = 8", "weight_bits = 8.0", "$.quantization.weight_bits: expected an integer, found 8.0"),
        ('"int32"', '"int16"', "$.quantization.bias_dtype: expected int32 or float32"),
        ("weight_per_channel = true\n", "", "$.quantization.weight_per_channel: missing"),
        ("weight_per_channel = true", "weight_per_channel = 1", "$.quantization.weight_per_channel: expected true or"),
        ("bias_dtype", "bias_type", "$.quantization.bias_type: unknown key, did you mean bias_dtype?"),
        ('"manual"', "3", '$.sources."quantization.weight_bits": expected a string, found 3'),
        ('"manual"', '""', '$.sources."quantization.weight_bits": expected a string'),
        ('"quantization.weight_bits" =', '"other" =', '$.sources."other": the file has no such number'),
        ("[sources]", "[[sources]]", "$.sources: expected a table"),
    ],
)
def test_malformed_profiles(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in PRESET
    path = write(tmp_path, PRESET.replace(old, new, 1))
    with pytest.raises(DeviceError) as caught:
        load(path)
    assert expected in caught.value.message
    assert caught.value.where == str(path)


def test_all_problems_at_once(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        load(write(tmp_path, 'kind = "preset"\nthreads = "two"\nextra = 1'))
    for part in (
        "$.name: missing",
        "$.threads: expected an integer",
        "$.extra: unknown key",
        "$.quantization: missing",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("preset", ["host", "nothing", "../arm"])
def test_a_preset_must_be_one(tmp_path: Path, preset: str) -> None:
    with pytest.raises(DeviceError, match=r"\$\.preset: .* is no integer preset"):
        load(write(tmp_path, BOARD.replace('"arm"', f'"{preset}"')))


def test_the_file_of_a_known_device_bears_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "folder", lambda: tmp_path)
    write(tmp_path, PRESET, "other.toml")
    with pytest.raises(DeviceError, match=r"\$\.name: expected the file's name 'other', found 'my-preset'"):
        load("other")


def test_an_installation_without_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "__file__", str(tmp_path / "edgeopt" / "device.py"))
    with pytest.raises(DeviceError, match="missing from this installation"):
        known()
    inside = tmp_path / "edgeopt" / "devices"
    inside.mkdir(parents=True)
    write(inside, 'name = "host"\nkind = "host"', "host.toml")
    assert known() == ["host"]  # as in a wheel
