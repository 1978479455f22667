"""EmoVerse as a workflow: from raw emotional videos to a trained, evaluated and exported model."""

__version__ = "0.1.0"
