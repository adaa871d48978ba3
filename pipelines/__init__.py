"""The Kubeflow pipelines, and what they compile to."""
