"""From raw posters to what training reads: sources, labels, manifest, splits, batches."""
