"""Turn an original InternVL2 checkpoint into a transformers-native one, running none of its code."""
