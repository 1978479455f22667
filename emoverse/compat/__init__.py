"""Uses of third-party interfaces that are not public, one module per library, each with its reason."""
