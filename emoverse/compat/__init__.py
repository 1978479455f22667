"""Private interfaces of libraries, one module per library, each use with its reason; contract tests check upgrades."""
