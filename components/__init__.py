"""Kubeflow components, one file per step: unpack paths, call the step function, record metadata."""
