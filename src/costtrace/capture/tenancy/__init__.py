"""Who pays for a request: headers of a trusted peer, API keys, signed tokens."""
