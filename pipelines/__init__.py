"""The Kubeflow pipeline: wiring, compiling, running on this machine."""
