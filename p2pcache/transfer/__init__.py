"""From a ref to verified blobs: resolve, the pure machine, its driver, peers as sources."""
