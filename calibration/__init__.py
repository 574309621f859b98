"""Data in, statistics out: dataset readers and streaming observers."""

from edgeopt.calibration.dataset import Dataset, open_dataset
from edgeopt.calibration.metrics import Metric, Outputs, resolve_metric
from edgeopt.calibration.sample import Sample, rows

__all__ = ["Dataset", "Metric", "Outputs", "Sample", "open_dataset", "resolve_metric", "rows"]
