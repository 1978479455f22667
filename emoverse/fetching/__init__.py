"""Raw corpora and checkpoints from DVC remotes, identified by MD5."""
