"""Convert any published InternVL checkpoint to the native layout without running its code."""
