"""Turn rows into the token ids and pixels that a model reads; count them."""
