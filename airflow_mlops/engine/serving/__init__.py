"""Model serving: the engine, the embedded server, the client, the store and the rollout."""
