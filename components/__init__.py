"""Kubeflow components: one folder per step, each a shim around `unsee.steps.<step>.run`."""

from unsee.params import default_values

IMAGE: str = default_values()["cluster"]["image"]
"""Image of every component; the pipelines replace it by what `cluster.image` of the given params says."""
