"""Ask an exported model about one's own clip or dialogue, with neither torch nor transformers."""
