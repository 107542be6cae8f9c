"""The sync conversation, `/p2pcache/sync/1`: one long-lived stream per connected pair."""
