"""Manifests, digests, lineage, tables and archives: what every step reads and writes."""
