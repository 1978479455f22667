"""The Kubeflow components: one file a step; each unpacks paths, calls the step function, copies the manifest."""
