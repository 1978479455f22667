"""Turn rows into token ids: what training, inference, the token budget and the report share."""
