"""What tests synthesise."""
