"""Preparation at scale: sources to filtered, deduplicated shards of tokens and a manifest that accounts for each record."""
