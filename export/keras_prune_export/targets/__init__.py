"""Targets: one small file each says what it can hold and how it stores a layer."""
