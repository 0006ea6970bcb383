"""Google Cloud: what the house keeps and runs there."""
