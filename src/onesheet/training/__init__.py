"""From a manifest to a checkpoint: configuration, network, Lightning module, run."""
