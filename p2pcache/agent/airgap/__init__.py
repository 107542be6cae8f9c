"""Content, manifests and names carried between networks in one CAR file: export and import."""
