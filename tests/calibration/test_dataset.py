from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration.dataset import Dataset, open_dataset
from edgeopt.errors import DataError, UsageError
from edgeopt.graph import TensorSpec, input_specs
from edgeopt.runtime import Session
from tests.calibration.specs import FLAT, IMAGE, noise, pixels, spec, write_toml
from tests.models import model

X = noise(20, 4)


def feeds(dataset: Dataset, name: str = "x") -> list[Any]:
    return [s.inputs[name] for s in dataset]


def labels(dataset: Dataset) -> list[Any]:
    return [s.label for s in dataset]


def test_an_npz_gives_the_same_samples_on_every_pass(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X.astype(np.float64), labels=np.arange(20))
    dataset = open_dataset(tmp_path / "a.npz", [FLAT])
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(feeds(dataset)), X)
        assert labels(dataset) == list(range(20))
    assert len(dataset) == dataset.samples == 20
    assert dataset.has_labels
    assert all(f.dtype == np.float32 and f.shape == (1, 4) and f.flags.c_contiguous for f in feeds(dataset))
    assert dataset.description == {"source": str(tmp_path / "a.npz"), "samples": 20, "metric": "top1"}
    assert dataset.warnings == []


@pytest.mark.parametrize(
    "source",
    [
        X,
        {"x": X},
        list(X),
        [X[:8], X[8:16], X[16:]],  # a ragged last batch
        [(X[:8],), (X[8:],)],
        [{"x": row} for row in X],
        (row[None] for row in X),
        lambda: iter(X),
        X[:, None],
    ],
)
def test_every_python_source(source: Any) -> None:
    dataset = open_dataset(source, [FLAT])
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(feeds(dataset)), X)
    assert len(dataset) == 20
    assert not dataset.has_labels
    assert dataset.metric is None


def test_one_sample_is_enough() -> None:
    dataset = open_dataset(X[:1], [FLAT])
    assert len(dataset) == 1
    assert dataset.warnings == ["only 1 sample; a few hundred give steadier ranges"]


def test_limit_counts_samples() -> None:
    for source in (X, [X[:8], X[8:]], {"x": X}):
        dataset = open_dataset(source, [FLAT], limit=11)
        assert len(dataset) == len(feeds(dataset)) == 11
    assert len(open_dataset(X, [FLAT], limit=100)) == 20
    assert len(open_dataset(X, [spec("x", 8, 4)], limit=11)) == 2
    with pytest.raises(UsageError, match="limit is 0"):
        open_dataset(X, [FLAT], limit=0)


def test_length_without_a_pass_is_the_length_of_a_pass() -> None:
    for source in (X, X[:, None], np.stack([X, X], axis=1), [X[:7], X[7:]]):
        dataset = open_dataset(source, [FLAT])
        before = len(dataset)
        assert before == len(feeds(dataset)) == len(dataset)


def test_counting_behind_the_first_look() -> None:
    many = list(np.tile(X, (5, 1)) + np.arange(100)[:, None])
    assert open_dataset(many, [FLAT]).samples == 100
    assert len(open_dataset(many, [FLAT])) == 100
    assert open_dataset(np.stack(many), [FLAT], limit=90).samples == 90
    assert len(open_dataset(many, [spec("x", 8, 4)])) == 13


def test_a_fixed_batch_is_filled_up() -> None:
    fixed = spec("x", 8, 4)
    source = [(row, i) for i, row in enumerate(X)]
    dataset = open_dataset(source, [fixed])
    samples = list(dataset)
    assert [(s.valid, s.batch) for s in samples] == [(8, 8), (8, 8), (4, 8)]
    assert len(dataset) == 3
    assert dataset.samples == 20
    np.testing.assert_array_equal(samples[2].inputs["x"], X[[16, 17, 18, 19, 19, 19, 19, 19]])
    assert samples[2].label == [16, 17, 18, 19, 19, 19, 19, 19]
    scored = dataset.score(lambda feed: {"y": np.eye(20)[(feed["x"][:, None] == X).all(-1).argmax(1)]})
    assert scored == 1.0
    assert dataset.description["samples"] == 20
    assert next(iter(open_dataset(X, [fixed]))).label is None


def test_a_fixed_batch_given_whole() -> None:
    fixed = spec("x", 8, 4)
    (sample,) = open_dataset([(X[:8], list(range(8)))], [fixed])
    assert (sample.valid, sample.batch, sample.label) == (8, 8, list(range(8)))
    chw = spec("x", 3, 4, 4)  # channels, no batch
    samples = list(open_dataset([(noise(3, 4, 4, seed=i), i) for i in range(2)], [chw]))
    assert [(s.inputs["x"].shape, s.label, s.batch) for s in samples] == [((3, 4, 4), 0, 1), ((3, 4, 4), 1, 1)]


def test_rows_before_a_whole_batch_are_kept() -> None:
    fixed = spec("x", 2, 4)
    samples = list(open_dataset([(X[0], 5), (X[1:3], 6)], [fixed]))
    assert [(s.valid, s.label) for s in samples] == [(1, [5, 5]), (1, 6)]


def test_inputs_with_their_batch_axis_elsewhere() -> None:
    specs = [spec("x", "batch", "T"), spec("s", 2, "batch", 3), spec("r", dtype=np.int64)]
    source = {"x": noise(5, 7), "s": noise(5, 2, 3), "r": np.array(16000)}
    sample = next(iter(open_dataset(source, specs)))
    assert {n: v.shape for n, v in sample.inputs.items()} == {"x": (1, 7), "s": (2, 1, 3), "r": ()}
    whole = [{"x": noise(5, 7), "s": noise(2, 5, 3), "r": 16000}]
    samples = list(open_dataset(whole, specs))
    assert len(samples) == 5
    np.testing.assert_array_equal(samples[4].inputs["s"], noise(2, 5, 3)[:, 4:])
    fixed = [spec("x", 2, 7), spec("s", 2, 3), spec("r", dtype=np.int64)]
    fixed_sample = next(iter(open_dataset({"x": noise(5, 7), "s": noise(5, 3), "r": np.array(1)}, fixed)))
    assert {n: v.shape for n, v in fixed_sample.inputs.items()} == {"x": (2, 7), "s": (2, 3), "r": ()}


def test_variable_sizes() -> None:
    source = [noise(1, 3, h, 10) for h in (8, 9, 10)]
    assert [f.shape[2] for f in feeds(open_dataset(source, [spec("x", "N", 3, "H", "W")]))] == [8, 9, 10]


def test_unknown_rank_takes_what_comes() -> None:
    assert feeds(open_dataset([X], [TensorSpec("x", np.dtype(np.float32), None)]))[0].shape == (20, 4)


def test_strings() -> None:
    dataset = open_dataset([["a", "b"]] and [np.array(["a", "b"])], [spec("x", "N", 2, dtype=object)])
    assert feeds(dataset)[0].tolist() == [["a", "b"]]


def test_memory_is_flat_in_the_samples(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(3_000_000, dtype=np.float32).reshape(300, 10_000))
    dataset = open_dataset(tmp_path / "a.npz", [spec("x", "N", 10_000)])
    tracemalloc.start()
    count = sum(1 for _ in dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 1_000_000  # the array has 12 MB


def test_bad_values_are_found_behind_the_first_look() -> None:
    values = np.tile(X, (5, 1))
    values[90, 2] = np.nan
    dataset = open_dataset(values, [FLAT])
    with pytest.raises(DataError, match="array, sample 90, input 'x': 1 NaN"):
        list(dataset)


def test_a_source_that_shuffles_is_refused() -> None:
    rng = np.random.default_rng(0)
    dataset = open_dataset(lambda: iter(rng.permutation(X)), [FLAT])
    with pytest.raises(DataError, match="gives other samples on each pass\n  hint: switch off shuffling"):
        list(dataset)


def test_a_source_that_shrinks_is_refused() -> None:
    source = list(X)
    dataset = open_dataset(source, [FLAT])
    del source[15:]
    with pytest.raises(DataError, match="gave 20 samples at first and 15 now"):
        list(dataset)


def test_labels_for_some_samples_only() -> None:
    for pair in ([(X[0], 1), X[1]], [X[0], (X[1], 1)]):
        with pytest.raises(DataError, match="unlike the samples before"):
            open_dataset(pair, [FLAT])


def test_default_metric() -> None:
    classes, numbers = np.arange(20) % 2, np.linspace(0, 1, 20)
    assert open_dataset({"x": X, "labels": numbers}, [FLAT]).metric is None
    plain = open_dataset({"x": X, "labels": classes}, [FLAT])
    assert plain.metric is not None
    assert plain.metric.name == "top1"
    for output, expected in {"N,2": "top1", "N,2,1,1": "top1", "N,4,4": None, "N,2,8,8": None}.items():
        net = model(f"agraph (float[N,4] x) => (float[{output}] y) {{ y = Identity(x) }}")
        metric = open_dataset({"x": X, "labels": classes}, [FLAT], model=net).metric
        assert (metric.name if metric else None) == expected


def test_declared_metrics(tmp_path: Path) -> None:
    data = {"x": X, "labels": np.arange(20)}
    chosen = open_dataset(data, [FLAT], metric="top5").metric
    assert chosen is not None
    assert chosen.name == "top5"
    with pytest.raises(DataError, match="metric top5 needs labels"):
        open_dataset(X, [FLAT], metric="top5")
    np.savez(tmp_path / "a.npz", **data)  # type: ignore[arg-type]
    text = '[input]\nsource = "a.npz:x"\n[labels]\nsource = "a.npz:labels"\n[score]\nmetric = "ds_metric:zero"\n'
    (tmp_path / "ds_metric.py").write_text("def zero(outputs, labels):\n    return 0\ndef one(o, l):\n    return 1\n")
    dataset = open_dataset(write_toml(tmp_path, text), [FLAT])
    assert dataset.score(lambda feed: {"y": feed["x"]}) == 0.0
    assert open_dataset(write_toml(tmp_path, text), [FLAT], metric="ds_metric:one").score(dict) == 1.0
    with pytest.raises(DataError, match="no labels or no metric"):
        open_dataset(X, [FLAT]).score(dict)


def test_a_toml_end_to_end(tmp_path: Path) -> None:
    raw = pixels(20, 8, 6, 3)
    np.savez(tmp_path / "a.npz", images=raw, labels=np.arange(20) % 5)
    path = write_toml(
        tmp_path,
        '[input]\nsource = "a.npz:images"\nlayout = "NHWC"\nscale = 0.00392156862745098\n'
        'mean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.2, 0.3]\n[labels]\nsource = "a.npz:labels"\n',
    )
    dataset = open_dataset(path, [IMAGE])
    expected = ((raw / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.3]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(np.concatenate(feeds(dataset)), expected, rtol=1e-5, atol=1e-6)
    assert dataset.description == {
        "source": path,
        "sources": {"x": "a.npz:images", "labels": "a.npz:labels"},
        "samples": 20,
        "preprocessing": {
            "x": {"layout": "NHWC", "scale": 0.00392156862745098, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
        },
        "metric": "top1",
    }


def test_images_of_a_bare_folder_are_prepared_by_assumption(tmp_path: Path) -> None:
    for i in range(20):
        Image.fromarray(pixels(20 + i, 16, 3, seed=i)).save(tmp_path / f"{i:02}.png")
    dataset = open_dataset(tmp_path, [spec("x", "N", 3, 8, 8)])
    assert {f.shape for f in feeds(dataset)} == {(1, 3, 8, 8)}
    assert len(dataset) == 20
    assert dataset.warnings[0].startswith("images are prepared by assumption (layout = NHWC, resize = 8, ")
    assert "look like raw pixels" in dataset.warnings[1]


def test_images_through_a_toml(tmp_path: Path) -> None:
    for i in range(20):
        Image.fromarray(pixels(20, 16, 3, seed=i)).save(tmp_path / f"{i:02}.png")
    path = write_toml(tmp_path, '[input]\nsource = "*.png"\nresize = [8, 8]\nscale = 0.0039\n')
    dataset = open_dataset(path, [spec("x", "N", 3, 8, 8)])
    assert dataset.warnings == []
    expected = np.asarray(Image.fromarray(pixels(20, 16, 3)).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(feeds(dataset)[0][0], expected.transpose(2, 0, 1) * 0.0039, rtol=1e-5)


def test_scores_a_model() -> None:
    net = model("agraph (float[N,4] x) => (float[N,4] y) { y = Softmax(x) }")
    dataset = open_dataset({"x": X, "labels": X.argmax(1)}, input_specs(net), model=net)
    assert dataset.score(Session(net).run) == 1.0


def test_a_model_without_inputs_takes_no_data() -> None:
    with pytest.raises(DataError, match="no inputs"):
        open_dataset(X, [])


def test_a_dataset_is_no_source() -> None:
    with pytest.raises(UsageError, match="already"):
        open_dataset(open_dataset(X, [FLAT]), [FLAT])


def test_a_generator_function_is_walked_again() -> None:
    calls = []

    def source() -> Iterator[Any]:
        calls.append(1)
        yield from X

    dataset = open_dataset(source, [FLAT])
    assert len(feeds(dataset)) == len(feeds(dataset)) == 20
    assert len(calls) == 3
